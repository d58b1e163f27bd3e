//! `{{name}}` and `{{name|fallback}}` in subjects and texts.

use std::fmt::Write;

use serde_json::Value;

use super::{campaign::Campaign, contact::Contact};

/// The longest text that a template may become, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// The longest name or fallback between the braces, in bytes; more is no variable but text.
const VARIABLE_BYTES_MAX: usize = 256;

/// A template filled with values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text; what had no value is left as it was.
    pub text: String,
    /// The names that had no value and no fallback, each once.
    pub unresolved: Vec<String>,
    /// The text was cut at [`OUTPUT_BYTES_MAX`].
    pub cut: bool,
}

/// Fills a template. A value is never looked at again, so that what a contact is called cannot bring in more.
pub fn render(template: &str, value_of: impl Fn(&str) -> Option<String>) -> Rendered {
    let mut rendered = Rendered { text: String::new(), unresolved: Vec::new(), cut: false };
    let mut rest = template;
    while let Some((before, variable, after)) = next_variable(rest) {
        rendered.push(before);
        let value = value_of(variable.name).filter(|value| !value.is_empty());
        if let Some(value) = value.as_deref().or(variable.fallback) {
            rendered.push(value);
        } else {
            rendered.push(variable.whole);
            if !rendered.unresolved.iter().any(|name| name == variable.name) {
                rendered.unresolved.push(variable.name.to_owned());
            }
        }
        rest = after;
    }
    rendered.push(rest);
    rendered
}

/// The names of the variables that a text still has, each once, with or without fallback; a text that has any never
/// goes out.
pub fn unresolved(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some((_, variable, after)) = next_variable(rest) {
        if !names.iter().any(|name| name == variable.name) {
            names.push(variable.name.to_owned());
        }
        rest = after;
    }
    names
}

/// The value of a variable: from `variables`, then the contact's fields and `custom`, then the campaign's. `name` is the
/// contact's first and last name, `venue` its company; the campaign's name is `campaign_name`.
pub fn lookup(
    name: &str,
    variables: &Value,
    contact: Option<&Contact>,
    campaign: Option<&Campaign>,
) -> Option<String> {
    variables
        .get(name)
        .and_then(text_of)
        .or_else(|| contact.and_then(|contact| contact_value(name, contact)))
        .or_else(|| campaign.and_then(|campaign| campaign_value(name, campaign)))
}

fn contact_value(name: &str, contact: &Contact) -> Option<String> {
    let field = match name {
        "first_name" => &contact.first_name,
        "last_name" => &contact.last_name,
        "company" | "venue" => &contact.company,
        "title" => &contact.title,
        "email" => &contact.email,
        "contact_type" => &contact.contact_type,
        "instagram_handle" => &contact.instagram_handle,
        "twitter_handle" => &contact.twitter_handle,
        "phone" => &contact.phone,
        "website" => &contact.website,
        "location" => &contact.location,
        "name" => {
            let names = [contact.first_name.as_deref(), contact.last_name.as_deref()];
            return Some(names.into_iter().flatten().collect::<Vec<_>>().join(" "))
                .filter(|name| !name.is_empty());
        }
        _ => &None,
    };
    field.clone().or_else(|| contact.custom.get(name).and_then(text_of))
}

fn campaign_value(name: &str, campaign: &Campaign) -> Option<String> {
    match name {
        "campaign_name" => Some(campaign.name.clone()),
        "location" => campaign.location.clone(),
        "brief" => campaign.brief.clone(),
        "description" => campaign.description.clone(),
        "sender_name" => campaign.sender.name.clone(),
        "signature" => campaign.sender.signature.clone(),
        "postal_address" => campaign.sender.postal_address.clone(),
        _ => None,
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

struct Variable<'a> {
    whole: &'a str,
    name: &'a str,
    fallback: Option<&'a str>,
}

/// The text before the first variable, the variable, and the text after it.
fn next_variable(text: &str) -> Option<(&str, Variable<'_>, &str)> {
    let mut from = 0;
    while let Some(start) = text[from..].find("{{").map(|at| at + from) {
        // Of `{{{{name}}` the last two braces open the variable.
        let inside = &text[start + 2..];
        let near = &inside[..inside.floor_char_boundary(VARIABLE_BYTES_MAX + 2)];
        if let Some(length) = near.find("}}")
            && let Some(variable) = parse(&text[start..start + length + 4], &inside[..length])
        {
            return Some((&text[..start], variable, &inside[length + 2..]));
        }
        from = start + 1;
    }
    None
}

fn parse<'a>(whole: &'a str, inside: &'a str) -> Option<Variable<'a>> {
    let (name, fallback) = match inside.split_once('|') {
        Some((name, fallback)) => (name.trim(), Some(fallback.trim())),
        None => (inside.trim(), None),
    };
    let named = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    named.then_some(Variable { whole, name, fallback })
}

impl Rendered {
    fn push(&mut self, text: &str) {
        let room = OUTPUT_BYTES_MAX.saturating_sub(self.text.len());
        let cut = text.floor_char_boundary(room);
        let _ = self.text.write_str(&text[..cut]);
        self.cut |= cut < text.len();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(template: &str) -> Rendered {
        let variables = json!({"first_name": "Alex", "venue": "The Bell House", "count": 3, "empty": "", "evil": "{{venue}}"});
        render(template, |name| lookup(name, &variables, None, None))
    }

    #[test]
    fn variables_take_their_value_or_their_fallback() {
        for (template, text) in [
            ("hi {{first_name}}, djing at {{ venue }}?", "hi Alex, djing at The Bell House?"),
            ("{{count}} nights", "3 nights"),
            ("hi {{nick|there}}", "hi there"),
            ("hi {{nick|}}!", "hi !"),
            ("hi {{empty|friend}}", "hi friend"),
            ("{{first_name|x}}", "Alex"),
            ("no variables {here} {{}} {{ }} {{a b}} }}", "no variables {here} {{}} {{ }} {{a b}} }}"),
            ("{{{{first_name}}}}", "{{Alex}}"),
            ("ünï {{first_name}} ✓", "ünï Alex ✓"),
            // A value is text, not a template.
            ("{{evil}}", "{{venue}}"),
        ] {
            let rendered = filled(template);
            assert_eq!(rendered.text, text);
            assert_eq!(rendered.unresolved, [""; 0], "{template}");
        }
    }

    #[test]
    fn values_come_from_variables_then_contact_then_campaign() {
        let new = crate::domain::contact::NewContact {
            first_name: Some("Sam".into()),
            custom: Some(json!({"city": "Brooklyn", "venue": "Bell"})),
            ..Default::default()
        };
        let contact = new.to_contact(uuid::Uuid::nil(), uuid::Uuid::nil());
        let variables = json!({"last_name": "Lee"});
        let value = |name| lookup(name, &variables, Some(&contact), None);
        for (name, expected) in [
            ("last_name", Some("Lee")),
            ("first_name", Some("Sam")),
            ("name", Some("Sam")),
            ("city", Some("Brooklyn")),
            ("venue", Some("Bell")),
            ("title", None),
            ("nonsense", None),
        ] {
            assert_eq!(value(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_has_no_value_is_named_once_and_left() {
        let rendered = filled("{{a}} {{b}} {{a}} {{first_name}}");
        assert_eq!(rendered.text, "{{a}} {{b}} {{a}} Alex");
        assert_eq!(rendered.unresolved, ["a", "b"]);
        assert_eq!(unresolved("{{a}} {{b|c}} {{a}} {{}}"), ["a", "b"]);
        assert_eq!(unresolved("plain"), [""; 0]);
    }

    #[test]
    fn output_and_names_are_bounded() {
        let long = "é".repeat(OUTPUT_BYTES_MAX);
        let rendered = render("{{x}}{{x}}", |_| Some(long.clone()));
        assert!(rendered.cut && rendered.text.len() <= OUTPUT_BYTES_MAX);
        let name = format!("{{{{{}}}}}", "a".repeat(VARIABLE_BYTES_MAX + 1));
        assert_eq!(unresolved(&name), [""; 0]);
        // Many openings without an end are read in linear time.
        assert_eq!(unresolved(&"{{".repeat(100_000)), [""; 0]);
    }
}
