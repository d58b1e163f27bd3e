//! The rules of the tree that no compiler checks. Each problem is one line: path, line, what is wrong.

mod crates;
mod sources;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// A file of the workspace.
pub struct File {
    /// Its path from the root, with slashes.
    pub path: String,
    /// What is in it.
    pub text: String,
}

impl File {
    /// A problem at a line, from 1.
    fn problem(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }
}

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 4] = [".git", ".iris", "node_modules", "target"];
/// What is read; everything else is data.
const EXTENSIONS: [&str; 5] = ["rs", "sql", "toml", "md", "sh"];

/// Every problem of the tree.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let mut problems = sources::check(&files);
    problems.extend(tree::check(root, &files)?);
    problems.extend(crates::check(&files)?);
    Ok(problems)
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let path: PathBuf = entry.path();
        if entry.file_type()?.is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                collect(root, &path, files)?;
            }
        } else if path.extension().is_some_and(|found| EXTENSIONS.iter().any(|extension| found == *extension))
        {
            let text = fs::read_to_string(&path).with_context(|| format!("{} is no text", path.display()))?;
            let relative = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            files.push(File { path: relative, text });
        }
    }
    Ok(())
}
