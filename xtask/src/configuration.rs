//! docs/configuration.md, from the settings as the roles declare them.

use std::fmt::Write;

use clap::{Arg, Args, Command};

/// The roles and what each declares.
fn sections() -> [(&'static str, Command); 5] {
    [
        ("all", shared::config::BaseConfig::augment_args(Command::new("base"))),
        ("log", shared::telemetry::LogConfig::augment_args(Command::new("log"))),
        ("api", api::ApiConfig::augment_args(Command::new("api"))),
        ("worker", worker::WorkerConfig::augment_args(Command::new("worker"))),
        ("dispatcher", dispatcher::DispatcherConfig::augment_args(Command::new("dispatcher"))),
    ]
}

/// What is about a machine and not about a role, and so is read from the environment alone: name, default, meaning.
const OF_THE_MACHINE: [(&str, &str, &str); 3] = [
    (
        "IRIS_HOME",
        "`.iris`",
        "The directory of what iris keeps when it is given no DATABASE_URL: the private PostgreSQL, the key that seals \
         secrets, the first API key. A variable only.",
    ),
    (
        "IRIS_PG_BIN",
        "-",
        "The directory of the PostgreSQL server's programs, version 15 or newer, that the private database runs. Without it \
         they are looked for where systems put them. A variable only.",
    ),
    (
        "IRIS_WORLD_BIN",
        "-",
        "The program of the simulated outside, for `iris up` and `iris demo`. Without it, `iris-world` beside `iris`. \
         A variable only.",
    ),
];

/// The page.
pub fn page() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Every setting is an environment variable and, for the roles that have it, an argument of the same name: \
         `IRIS_API_ADDR` is\n`--api-addr`. An argument wins. A setting that is wrong stops the start with one line that says \
         which and why.\n\n\
         This page is written by `cargo xtask gen` from the settings' declarations; change their doc comments instead.\n\n\
         | setting | role | default | what |\n|---|---|---|---|\n",
    );
    for (role, command) in sections() {
        for argument in command.get_arguments() {
            if let Some(row) = row(role, argument) {
                page.push_str(&row);
            }
        }
    }
    for (name, default, help) in OF_THE_MACHINE {
        let _ = writeln!(page, "| `{name}` | all | {default} | {help} |");
    }
    page
}

/// A line of the table; nothing for an argument that is no setting, such as `--help`.
fn row(role: &str, argument: &Arg) -> Option<String> {
    let name = argument.get_env()?.to_string_lossy().into_owned();
    let default = default_of(argument);
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let role = if role == "log" { "all" } else { role };
    let mut row = String::new();
    let _ = writeln!(row, "| `{name}` | {role} | {default} | {} |", sentence(&help));
    Some(row)
}

fn default_of(argument: &Arg) -> String {
    let values: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    match values.join(",") {
        empty if empty.is_empty() => "-".to_owned(),
        value => format!("`{value}`"),
    }
}

/// The help as one cell: clap drops the last full stop of a doc comment of one paragraph.
fn sentence(help: &str) -> String {
    let line = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if line.ends_with('.') { line } else { format!("{line}.") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_is_documented_once() {
        let mut seen = BTreeSet::new();
        for (_, command) in sections() {
            for argument in command.get_arguments() {
                let Some(name) = argument.get_env() else { continue };
                assert!(seen.insert(name.to_owned()), "{} is declared twice", name.display());
                assert!(argument.get_help().is_some(), "{} has no doc comment", name.display());
            }
        }
        assert!(seen.len() > 10);
    }
}
