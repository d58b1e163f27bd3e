//! The built-in templates: whatever is known, nothing is left open.

use std::collections::BTreeSet;

use shared::domain::{campaign::Sender, template};
use sqlx::types::Json;
use worker::drafting::{Provider, Request, phrases::PHRASES, template::draft};

use crate::people::{campaign, contact, noon, request, sent, stranger};

/// Every objective with a known contact and with a stranger, for a campaign that says much and one that says nothing.
fn requests(step: i32) -> Vec<Request> {
    let objectives = PHRASES.iter().map(|phrases| phrases.objective).chain(["something_else"]);
    let mut requests = Vec::new();
    for objective in objectives {
        let full = Request { campaign: campaign(objective), ..request(step) };
        let mut bare = Request { contact: stranger(), ..full.clone() };
        bare.campaign.keywords = vec![" ".into()];
        bare.campaign.location = None;
        bare.campaign.brief = None;
        bare.campaign.sender = Json(Sender::default());
        let signed = Sender { signature: Some("Ana\nDJ".into()), ..full.campaign.sender.0.clone() };
        let mut signing = full.clone();
        signing.campaign.sender = Json(signed);
        requests.extend([full, bare, signing]);
    }
    requests
}

#[test]
fn no_template_leaves_a_variable_or_a_gap() {
    for step in 0..=7 {
        for request in requests(step) {
            let drafted = draft(&request);
            let objective = &request.campaign.objective_type;
            for text in [&drafted.subject, &drafted.content] {
                assert_eq!(template::unresolved(text), Vec::<String>::new(), "{objective} {step}: {text}");
                assert!(!text.contains(['[', ']', '{', '}', '|']), "{objective} {step}: {text}");
                assert!(!text.contains("  ") && !text.contains("\n\n\n") && !text.contains(" ,"), "{text}");
                assert!(!text.trim().is_empty());
            }
            assert!(
                !drafted.subject.contains('\n')
                    && drafted.subject.chars().next().is_some_and(|c| !c.is_lowercase())
            );
        }
    }
}

#[test]
fn every_step_says_something_else_and_says_it_again() {
    for index in 0..requests(0).len() {
        let texts: BTreeSet<String> = (0..=6).map(|step| draft(&requests(step)[index]).content).collect();
        assert_eq!(texts.len(), 7);
        assert_eq!(draft(&requests(2)[index]), draft(&requests(2)[index]));
    }
}

#[test]
fn the_words_are_the_campaigns_and_the_contacts() {
    let first = draft(&request(0));
    assert_eq!(first.subject, "A DJ night at The Bell House?");
    for expected in
        ["Hi Alex,", "around Gowanus", "live music and dj nights", "House and disco", "Best,\nAna Lopez"]
    {
        assert!(first.content.contains(expected), "{expected:?} is not in\n{}", first.content);
    }
    let bare = Request { contact: stranger(), ..request(0) };
    assert!(draft(&bare).content.starts_with("Hi there,\n\n"));
    let mut signed = request(0);
    signed.campaign.sender.signature = Some("Ana".into());
    assert!(!draft(&signed).content.contains("Best,"), "the signature is added when it is sent");
}

#[test]
fn a_value_brings_in_no_variable() {
    let mut hostile = request(0);
    hostile.contact = contact();
    hostile.contact.company = Some("{{email}}".into());
    let drafted = draft(&hostile);
    assert!(!drafted.content.contains("alex@bellhouse.example"));
    assert_eq!(template::unresolved(&drafted.content), ["email"], "and so it never goes out by itself");
    hostile.contact.company = Some("Bell\r\nBcc: everyone@venue.example".into());
    assert!(!draft(&hostile).subject.contains(['\r', '\n']));
}

#[tokio::test]
async fn a_follow_up_stays_in_its_thread() {
    let subject = async |request: &Request| Provider::Template.draft(request, noon()).await.unwrap().subject;
    let mut request = request(1);
    request.earlier = vec![sent(0, "A DJ night?")];
    assert_eq!(subject(&request).await, "Re: A DJ night?");
    request.earlier = vec![sent(0, "RE: A DJ night?")];
    assert_eq!(subject(&request).await, "RE: A DJ night?");
    // The first message was rejected: nothing was sent that could be followed.
    request.earlier[0].sending_at = None;
    assert_eq!(subject(&request).await, "A DJ night at The Bell House?");
}
