//! What must be where.

use std::{collections::BTreeSet, fs, path::Path};

use super::{File, SKIPPED};

/// The directories of migrations, and the file that must name each of them.
const MIGRATIONS: [(&str, &str); 2] =
    [("migrations/", "shared/src/db/mod.rs"), ("queue/migrations/", "queue/src/migrations.rs")];
/// The page that says what is where.
const CONTRIBUTING: &str = "CONTRIBUTING.md";
/// How many digits a migration's time has.
const TIME_DIGITS: usize = 14;

/// Every problem of the tree's shape.
pub fn check(root: &Path, files: &[File]) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (directory, registry) in MIGRATIONS {
        problems.extend(check_migrations(files, directory, registry));
    }
    let Some(page) = files.iter().find(|file| file.path == CONTRIBUTING) else {
        return Ok(vec![format!("{CONTRIBUTING}:1: is missing")]);
    };
    problems.extend(check_paths(root, page));
    problems.extend(check_directories(root, page)?);
    Ok(problems)
}

fn check_migrations(files: &[File], directory: &str, registry: &str) -> Vec<String> {
    let registered = files.iter().find(|file| file.path == registry).map_or("", |file| file.text.as_str());
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with(directory) && file.has_extension("sql")) {
        let name = &file.path[directory.len()..];
        if !is_migration_name(name) {
            problems.push(file.problem(1, "a migration is named <14 digits>_<table>_<change>.sql"));
        }
        if !registered.contains(name) {
            problems.push(file.problem(1, format!("is not in {registry}, and so never applied")));
        }
    }
    problems
}

fn is_migration_name(name: &str) -> bool {
    let Some((time, rest)) = name.split_once('_') else { return false };
    let Some(words) = rest.strip_suffix(".sql") else { return false };
    time.len() == TIME_DIGITS
        && time.bytes().all(|byte| byte.is_ascii_digit())
        && !words.is_empty()
        && words.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The paths in the tables of CONTRIBUTING exist.
fn check_paths(root: &Path, page: &File) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, line) in page.text.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        for path in line.split('`').skip(1).step_by(2).filter(|code| is_path(code)) {
            // `<resource>` and `{a,b}` stand for many files: what comes before them must be there.
            let fixed = path.split(['<', '{']).next().unwrap_or(path);
            let fixed = if fixed.len() < path.len() {
                fixed.rsplit_once('/').map_or("", |(dir, _)| dir)
            } else {
                fixed
            };
            if !root.join(fixed).exists() {
                problems.push(page.problem(index + 1, format!("{path} does not exist")));
            }
        }
    }
    problems
}

/// Whether a piece of code in a table is a path from the root: it has a slash after its first directory.
fn is_path(code: &str) -> bool {
    let inner = code.trim_end_matches('/');
    inner.contains('/') && !inner.contains([' ', ':', '('])
}

/// Every directory at the root is in CONTRIBUTING's table of the tree.
fn check_directories(root: &Path, page: &File) -> anyhow::Result<Vec<String>> {
    let described: BTreeSet<&str> = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once("/ |").map(|(directory, _)| directory))
        .collect();
    let mut problems = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = entry.file_type()?.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str());
        let explained = described.contains(name.as_str()) || entry.path().join("README.md").exists();
        if ours && !explained {
            problems.push(format!("{name}/:1: has no README.md and no row in {CONTRIBUTING}"));
        }
    }
    problems.sort_unstable();
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_have_a_time_and_words() {
        assert!(is_migration_name("20261101000100_accounts_create.sql"));
        for bad in
            ["2026_accounts.sql", "20261101000100.sql", "20261101000100_A.sql", "20261101000100_a.txt", "a"]
        {
            assert!(!is_migration_name(bad), "{bad}");
        }
    }

    #[test]
    fn an_unregistered_migration_is_found() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = [
            file("migrations/20261101000100_a_create.sql", ""),
            file("migrations/20261101000200_b_create.sql", ""),
            file("shared/src/db/mod.rs", "20261101000100_a_create.sql"),
        ];
        let problems = check_migrations(&files, "migrations/", "shared/src/db/mod.rs");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("migrations/20261101000200_b_create.sql:1:"));
    }

    #[test]
    fn paths_of_the_tables_are_looked_up() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("api/src/routes")).unwrap();
        let page = File {
            path: CONTRIBUTING.into(),
            text: "| a | `api/src/routes/<resource>.rs`, `outbox::append`, `routes/` |\n| b | `api/src/gone.rs` |\n".into(),
        };
        let problems = check_paths(root.path(), &page);
        assert_eq!(problems, ["CONTRIBUTING.md:2: api/src/gone.rs does not exist"]);
    }
}
