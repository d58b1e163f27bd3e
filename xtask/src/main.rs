//! `cargo xtask gen` writes the files that are made from the code; `cargo xtask tidy` checks what no compiler does.

mod configuration;
mod errors;
mod generate;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// The chores of the workspace.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Write api/openapi.json, docs/configuration.md, docs/errors.md and docs/events.json.
    Gen {
        /// Only say which of them differ from what would be written, and fail if one does.
        #[arg(long)]
        check: bool,
    },
    /// Check the rules of the tree.
    Tidy,
}

fn main() -> anyhow::Result<ExitCode> {
    let root = root();
    let problems = match Arguments::parse().chore {
        Chore::Gen { check: false } => {
            generate::write(&root)?;
            Vec::new()
        }
        Chore::Gen { check: true } => generate::check(&root)?,
        Chore::Tidy => tidy::check(&root)?,
    };
    for problem in &problems {
        eprintln!("{problem}");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}
