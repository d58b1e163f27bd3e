//! The generated files: what each contains, writing them, and saying where one is stale.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde_json::Value;

use crate::{configuration, errors};

/// Every generated file, by its path in the workspace.
fn files() -> anyhow::Result<Vec<(&'static str, String)>> {
    let json = |value: Value| format!("{:#}\n", sorted(value));
    Ok(vec![
        ("api/openapi.json", json(serde_json::to_value(api::openapi())?)),
        ("docs/configuration.md", configuration::page()),
        ("docs/errors.md", errors::page()),
        ("docs/events.json", json(serde_json::to_value(shared::events::schemas::describe_all())?)),
    ])
}

/// The same JSON with its fields in the order of their names: some of the document's maps have no order of their own.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> =
                fields.into_iter().map(|(name, field)| (name, sorted(field))).collect();
            fields.into_iter().collect()
        }
        other => other,
    }
}

/// Writes the files.
pub fn write(root: &Path) -> anyhow::Result<()> {
    for (path, text) in files()? {
        fs::write(root.join(path), text).with_context(|| format!("{path} cannot be written"))?;
    }
    Ok(())
}

/// The files that are not what [`write`] would write, each with its first line that differs.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut stale = Vec::new();
    for (path, expected) in files()? {
        let found = fs::read_to_string(root.join(path)).unwrap_or_default();
        if let Some(line) = first_difference(&found, &expected) {
            let shown = expected.lines().nth(line - 1).unwrap_or("(the end)").trim();
            stale.push(format!("{path}:{line}: is stale, run `cargo xtask gen`; it would say: {shown}"));
        }
    }
    Ok(stale)
}

/// The first line, from 1, in which two texts differ.
fn first_difference(found: &str, expected: &str) -> Option<usize> {
    if found == expected {
        return None;
    }
    let same = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
        assert_eq!(first_difference("a\n", "a"), Some(2));
    }
}
