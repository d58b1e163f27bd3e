//! Drafts without a network: the words of [`phrases`](super::phrases), filled from the contact and the campaign. The
//! same request gives the same text.

use serde_json::{Value, json};
use shared::domain::template;

use super::{
    Drafted, Request,
    phrases::{PHRASES, Phrases, STEPS},
};

/// What the drafts say that wrote them.
pub const MODEL: &str = "template";

/// How many keywords a sentence can carry.
const KEYWORDS_MAX: usize = 3;
/// A longer brief is a briefing, not a paragraph of a message.
const BRIEF_CHARS_MAX: usize = 600;

/// Drafts one message. Every placeholder has a value or a fallback, so that nothing unresolved remains.
pub fn draft(request: &Request) -> Drafted {
    let phrases = phrases(&request.campaign.objective_type);
    let variables = variables(request);
    let interest = if variables["interest"].is_string() { "{{interest}}" } else { phrases.interest };
    let about = if variables["about"].is_string() { "{{about}}\n\n" } else { "" };
    let fill = |text: &str| {
        // The ask and the others hold {{interest}} themselves, so that it comes last.
        text.replace("[opening]", phrases.opening)
            .replace("[topic]", phrases.topic)
            .replace("[reason]", phrases.reason)
            .replace("[ask]", phrases.ask)
            .replace("[about]", about)
            .replace("{{interest}}", interest)
    };
    let frame = step_frame(request.step);
    let content = format!("{}\n\n{}", fill(frame), closing(request));
    let render = |text: &str| {
        let (contact, campaign) = (Some(&request.contact), Some(&request.campaign));
        template::render(text, |name| template::lookup(name, &variables, contact, campaign)).text
    };
    let subject = capitalised(&one_line(&render(&fill(phrases.subject))));
    Drafted { subject, content: render(&content).trim().to_owned(), model: MODEL.to_owned() }
}

fn phrases(objective: &str) -> Phrases {
    let known = PHRASES.iter().find(|phrases| phrases.objective == objective);
    *known.unwrap_or(&PHRASES[PHRASES.len() - 1])
}

/// A campaign has at most six follow-ups; a step beyond speaks like the last.
fn step_frame(step: i32) -> &'static str {
    let index = usize::try_from(step).unwrap_or_default().min(STEPS.len() - 1);
    STEPS[index]
}

/// What the words need beside the contact's and the campaign's own fields. What is empty is left out, and so falls back.
fn variables(request: &Request) -> Value {
    let campaign = &request.campaign;
    let words = campaign.keywords.iter().map(|word| word.trim()).filter(|word| !word.is_empty());
    let keywords = listed(&words.take(KEYWORDS_MAX).collect::<Vec<_>>());
    let brief = campaign.brief.as_deref().map(str::trim).filter(|brief| !brief.is_empty());
    let mut variables = json!({});
    if let Some(keywords) = keywords {
        variables["interest"] = keywords.into();
    }
    if let Some(brief) = brief.filter(|brief| brief.chars().count() <= BRIEF_CHARS_MAX) {
        variables["about"] = brief.into();
    }
    variables
}

/// `a`, `a and b`, `a, b and c`.
fn listed(words: &[&str]) -> Option<String> {
    match words {
        [] => None,
        [word] => Some((*word).to_owned()),
        [first @ .., last] => Some(format!("{} and {last}", first.join(", "))),
    }
}

/// A signature is added under the text when it is sent; without one the text closes with the sender's name.
fn closing(request: &Request) -> &'static str {
    let sender = &request.campaign.sender;
    match (&sender.signature, &sender.name) {
        (Some(_), _) => "",
        (None, Some(_)) => "Best,\n{{sender_name|}}",
        (None, None) => "Best regards",
    }
}

/// A value must not end the header line that it is put into.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
