//! What a source file may contain.

use super::File;

/// The longest source file, without its tests.
const LINES_MAX: usize = 500;

/// Marks of unfinished work, in two halves, so that this file does not contain them.
const UNFINISHED: [(&str, &str); 6] =
    [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("unimple", "mented!"), ("todo", "!("), ("dbg", "!(")];

/// What reads the system's clock, and the one file that may.
const CLOCK_READS: [(&str, &str); 2] = [("Utc::", "now"), ("Local::", "now")];
const CLOCK: &str = "shared/src/clock.rs";

/// What the queue knows nothing of.
const FOREIGN_TO_QUEUE: [&str; 3] = ["campaign", "webhook", "endpoint"];

/// Every problem in the sources.
pub fn check(files: &[File]) -> Vec<String> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<String> {
    let mut problems = Vec::new();
    if file.has_extension("md") {
        return problems;
    }
    for (index, line) in file.text.lines().enumerate() {
        let at = |what: String| file.problem(index + 1, what);
        for (a, b) in UNFINISHED {
            if contains_word(line, &[a, b].concat()) {
                problems.push(at(format!("{a}{b} is unfinished work")));
            }
        }
        if file.has_extension("rs") && file.path != CLOCK {
            for (a, b) in CLOCK_READS {
                if line.contains(&[a, b].concat()) && !line.trim_start().starts_with("//") {
                    problems.push(at(format!("take a Clock instead of {a}{b}")));
                }
            }
        }
        if file.path.starts_with("queue/") && (file.has_extension("rs") || file.has_extension("sql")) {
            let line = line.to_lowercase();
            for word in FOREIGN_TO_QUEUE.into_iter().filter(|word| line.contains(word)) {
                problems.push(at(format!("the queue knows nothing of a {word}")));
            }
        }
    }
    if file.has_extension("rs") {
        problems.extend(check_rust(file));
    }
    problems
}

fn check_rust(file: &File) -> Vec<String> {
    let mut problems = Vec::new();
    let is_test = file.path.contains("/tests/") || file.path.ends_with("tests.rs");
    if !is_test && !file.text.starts_with("//!") {
        problems.push(file.problem(1, "opens with no `//!` line that says what it is"));
    }
    let lines = file.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if !is_test && lines > LINES_MAX {
        problems.push(file.problem(lines, format!("has {lines} lines without tests, more than {LINES_MAX}")));
    }
    problems
}

/// Whether a line has the text where no identifier goes on before or after it.
fn contains_word(line: &str, text: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(text).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(goes_on);
        let after = line[at + text.len()..].chars().next().is_some_and(goes_on);
        // A macro's name ends with its bracket; what follows is its argument.
        !before && (text.ends_with('(') || !after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        check_file(&File { path: path.into(), text: text.into() })
    }

    #[test]
    fn each_rule_finds_its_breach_and_nothing_else() {
        let unfinished = ["TO", "DO"].concat();
        for (path, text, expected) in [
            ("a/src/lib.rs", "//! A.\n", 0),
            ("a/src/lib.rs", "fn a() {}\n", 1),
            ("a/src/lib.rs", &format!("//! A.\n// {unfinished}: more\n"), 1),
            ("a/src/lib.rs", &format!("//! A.\n// AUTO{unfinished}NE\n"), 0),
            ("a/src/lib.rs", &["//! A.\n", "dbg", "!(x);\n"].concat(), 1),
            ("a/src/lib.rs", &["//! A.\n", "Utc::", "now()\n"].concat(), 1),
            ("shared/src/clock.rs", &["//! A.\n", "Utc::", "now()\n"].concat(), 0),
            ("queue/src/lib.rs", "//! A campaign.\n", 1),
            ("queue/migrations/1.sql", "-- an endpoint\n", 1),
            ("api/src/lib.rs", "//! A campaign.\n", 0),
            ("a/src/lib.rs", &format!("//! A.\n{}", "\n".repeat(500)), 1),
            ("a/tests/a.rs", &"\n".repeat(600), 0),
            ("a/src/lib.rs", &format!("//! A.\n#[cfg(test)]\n{}", "\n".repeat(600)), 0),
            ("docs/a.md", &unfinished, 0),
        ] {
            assert_eq!(problems(path, text).len(), expected, "{path}: {text:.40}");
        }
        assert_eq!(
            problems("a/src/b.rs", "x")[0],
            "a/src/b.rs:1: opens with no `//!` line that says what it is"
        );
    }
}
