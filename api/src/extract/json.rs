//! What is checked of JSON before it becomes what an operation takes.

use std::fmt::Write;

use serde_json::Value;
use shared::domain::FieldError;

use super::{DETAILS_MAX, NAME_BYTES_MAX, cut};
use crate::error::ApiError;

/// How many values one body may have. Parsed, a value takes up to a hundred times its bytes.
pub const VALUES_MAX: usize = 100_000;
/// What a value takes once it is parsed, in bytes: half of a map with one entry, which is the worst.
const VALUE_BYTES: usize = 400;

/// How much the values of a JSON text take once it is parsed, in KiB. None: there are too many of them.
pub fn value_kibibytes(json: &[u8]) -> Option<u32> {
    let values = count_values(json);
    let bytes = (values <= VALUES_MAX).then_some(values * VALUE_BYTES)?;
    u32::try_from(bytes.div_ceil(1024)).ok()
}

/// How many values a JSON text has at most: one, one more after each comma, one more in each list and object. Stops soon
/// after [`VALUES_MAX`].
fn count_values(json: &[u8]) -> usize {
    let mut values = 1;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b',' | b'[' | b'{' => values += 1,
            _ => {}
        }
        if values > VALUES_MAX {
            break;
        }
    }
    values
}

/// Goes on behind the string that has begun.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

/// Refuses texts and names with the character NUL, which PostgreSQL does not store, wherever they are.
pub fn refuse_nul(json: &[u8]) -> Result<(), ApiError> {
    if !json.windows(6).any(|window| window == br"\u0000") {
        return Ok(());
    }
    // What does not parse is explained by the caller.
    let Ok(value) = serde_json::from_slice::<Value>(json) else { return Ok(()) };
    let mut search = NulSearch { path: Vec::new(), found: Vec::new() };
    search.visit(&value);
    if search.found.is_empty() { Ok(()) } else { Err(ApiError::input(search.found)) }
}

/// A step on the way to a value.
enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

/// Where a NUL was found, and where the search is. The path is written out for what is found only.
struct NulSearch<'a> {
    path: Vec<Step<'a>>,
    found: Vec<FieldError>,
}

impl<'a> NulSearch<'a> {
    /// The recursion ends, since the parser takes at most 128 levels.
    fn visit(&mut self, value: &'a Value) {
        match value {
            Value::String(text) if text.contains('\0') => self.note(),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Step::Item(index));
                    self.visit(item);
                    self.path.pop();
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    self.path.push(Step::Field(name));
                    if name.contains('\0') {
                        self.note();
                    }
                    self.visit(field);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn note(&mut self) {
        if self.found.len() < DETAILS_MAX {
            let field = cut(written(&self.path), NAME_BYTES_MAX);
            self.found.push(FieldError::new(field, "must not contain the character U+0000"));
        }
    }
}

/// A path as details name fields, such as `contacts[3].shoe`; not much more of it than is shown.
fn written(path: &[Step<'_>]) -> String {
    let mut written = String::new();
    for step in path {
        match step {
            Step::Field(name) => {
                if !written.is_empty() {
                    written.push('.');
                }
                let shown = &name[..name.floor_char_boundary(NAME_BYTES_MAX + 1)];
                written.extend(shown.chars().filter(|c| *c != '\0'));
            }
            Step::Item(index) => {
                // Writing to a String cannot fail.
                let _ = write!(written, "[{index}]");
            }
        }
        if written.len() > NAME_BYTES_MAX {
            break;
        }
    }
    if written.is_empty() { "body".to_owned() } else { written }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn values_are_counted_outside_strings() {
        for (json, values) in [
            ("7", 1),
            (r#"{"a": 1, "b": [2, 3]}"#, 5),
            (r#"{"a,[{": "\",[{\\", "b": 1}"#, 3),
            ("[[],[],{}]", 7),
            (r#""never ends,,,"#, 1),
        ] {
            assert_eq!(count_values(json.as_bytes()), values, "{json}");
        }
        let most = format!("[{}0]", "0,".repeat(VALUES_MAX - 2));
        assert_eq!(value_kibibytes(most.as_bytes()), Some(39_063));
        let more = format!("[{}0]", "0,".repeat(VALUES_MAX - 1));
        assert_eq!(value_kibibytes(more.as_bytes()), None);
    }

    #[test]
    fn nul_is_found_deep_down_in_time_that_grows_with_the_body_only() {
        let name = "x".repeat(100_000);
        let depth = 100;
        let items = "0,".repeat(40_000);
        let json =
            format!(r#"{}[{items}"\u0000"]{}"#, format!(r#"{{"{name}":"#).repeat(depth), "}".repeat(depth));
        let started = Instant::now();
        let refused = refuse_nul(json.as_bytes()).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(refused.details().len(), 1);
        assert!(refused.details()[0].field.len() < NAME_BYTES_MAX + 10);
    }

    #[test]
    fn few_of_many_are_named() {
        let json =
            format!(r#"{{"\u0000": [{}0], "{}\u0000": 1}}"#, r#""\u0000","#.repeat(1000), "n".repeat(500));
        let refused = refuse_nul(json.as_bytes()).unwrap_err();
        assert_eq!(refused.details().len(), DETAILS_MAX);
        assert_eq!(refused.details()[0].field, "body");
        assert_eq!(refused.details()[1].field, "[0]");
    }
}
