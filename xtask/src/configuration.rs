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
    page
}

/// A line of the table; nothing for an argument that is no setting, such as `--help`.
fn row(role: &str, argument: &Arg) -> Option<String> {
    let name = argument.get_env()?.to_string_lossy().into_owned();
    let default = if argument.is_required_set() { "required".to_owned() } else { default_of(argument) };
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
