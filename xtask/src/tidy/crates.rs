//! Which crate may depend on which.

use anyhow::Context;
use toml::{Table, Value};

use super::File;

/// What each crate of the workspace may use of the others. The arrows point one way: queue, then shared, then the roles,
/// then iris; the roles never use each other, and the simulated outside uses nothing of ours.
const ALLOWED: [(&str, &[&str]); 18] = [
    ("api", &["queue", "shared"]),
    ("bench", &["dispatcher", "embedded", "queue", "shared"]),
    ("bench/rivals/apalis-postgres", &[]),
    ("bench/rivals/awa", &[]),
    ("bench/rivals/protocol", &[]),
    ("chaos", &["embedded", "queue"]),
    ("chaos/ledger", &[]),
    ("chaos/receivers", &[]),
    ("dispatcher", &["queue", "shared"]),
    ("embedded", &[]),
    ("iris", &["api", "dispatcher", "embedded", "queue", "shared", "worker"]),
    ("queue", &[]),
    ("shared", &["queue"]),
    ("testkit", &["embedded"]),
    ("tests", &["embedded", "testkit"]),
    ("worker", &["queue", "shared"]),
    ("world", &[]),
    ("xtask", &["api", "dispatcher", "shared", "worker"]),
];
/// What tests may use besides.
const ALLOWED_IN_TESTS: &[&str] = &["embedded", "testkit"];
/// The crates whose tests may not either: their ledgers judge ours.
const JUDGES: [&str; 3] = ["chaos/ledger", "chaos/receivers", "world"];

/// Every dependency that points the wrong way.
pub fn check(files: &[File]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in files {
        let Some(name) = file.path.strip_suffix("/Cargo.toml") else { continue };
        let Some((_, allowed)) = ALLOWED.iter().find(|(member, _)| *member == name) else {
            problems.push(file.problem(1, "is not in the table of xtask/src/tidy/crates.rs"));
            continue;
        };
        let manifest: Table = file.text.parse().with_context(|| format!("{} is no TOML", file.path))?;
        let tests: &[&str] = if JUDGES.contains(&name) { &[] } else { ALLOWED_IN_TESTS };
        for (section, extra) in
            [("dependencies", &[][..]), ("build-dependencies", &[]), ("dev-dependencies", tests)]
        {
            for ours in used(&manifest, section) {
                if !allowed.contains(&ours) && !extra.contains(&ours) {
                    problems
                        .push(file.problem(line_of(&file.text, ours), format!("{name} must not use {ours}")));
                }
            }
        }
    }
    Ok(problems)
}

/// The crates of ours that a section names.
fn used(manifest: &Table, section: &str) -> Vec<&'static str> {
    let Some(Value::Table(dependencies)) = manifest.get(section) else { return Vec::new() };
    ALLOWED.iter().map(|(member, _)| *member).filter(|member| dependencies.contains_key(*member)).collect()
}

fn line_of(text: &str, dependency: &str) -> usize {
    let is_it = |line: &str| {
        line.strip_prefix(dependency).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
    };
    text.lines().position(is_it).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        check(&[File { path: path.into(), text: text.into() }]).unwrap()
    }

    #[test]
    fn an_arrow_that_points_back_is_found() {
        let uses = |name: &str| format!("[dependencies]\nserde = \"1\"\n{name} = {{ workspace = true }}\n");
        assert_eq!(
            problems("queue/Cargo.toml", &uses("shared")),
            ["queue/Cargo.toml:3: queue must not use shared"]
        );
        assert_eq!(problems("shared/Cargo.toml", &uses("queue")), [""; 0]);
        assert_eq!(problems("api/Cargo.toml", &uses("worker")).len(), 1);
        assert_eq!(problems("api/Cargo.toml", "[dev-dependencies]\ntestkit.workspace = true\n"), [""; 0]);
        assert_eq!(problems("world/Cargo.toml", "[dev-dependencies]\ntestkit.workspace = true\n").len(), 1);
        assert_eq!(
            problems("chaos/ledger/Cargo.toml", "[dev-dependencies]\ntestkit.workspace = true\n").len(),
            1
        );
        assert_eq!(problems("new/Cargo.toml", "").len(), 1);
    }
}
