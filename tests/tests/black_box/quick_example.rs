//! The quick example of the API's documentation, with curl, word for word but for the base URL, the key and the ids.

use std::process::Command;

use serde_json::Value;
use tests::{Stack, until};

/// Runs a shell script; returns what it prints.
fn shell(script: &str, variables: &[(&str, &str)]) -> Value {
    let output = Command::new("sh")
        .args(["-euc", script])
        .envs(variables.iter().copied())
        .output()
        .expect("a shell runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_example_works_as_it_is_written() {
    let stack = Stack::start().await;
    let (base, key) = (stack.api.base().to_owned(), stack.key.clone());
    let step = |script: &str, ids: &[(&str, &str)]| {
        let mut variables = vec![("BASE", base.as_str()), ("KEY", key.as_str())];
        variables.extend_from_slice(ids);
        shell(script, &variables)
    };

    let created = step(include_str!("quick_example/1-create.sh"), &[]);
    let campaign = created["data"]["id"].as_str().unwrap().to_owned();
    let found = step(include_str!("quick_example/2-discover.sh"), &[("CAMPAIGN", &campaign)]);
    assert_eq!(found["data"]["total_results"], 50);
    assert_eq!(found["data"]["contacts"].as_array().unwrap().len(), 50);
    assert_eq!(found["data"]["partial"], false);
    let channels = step(include_str!("quick_example/3-channels.sh"), &[]);
    assert_eq!(channels["success"], true);

    // Activation creates the conversations that step 4 writes into.
    stack.activate(&campaign).await;
    let conversation = until("a conversation", async || {
        let list = stack.api.get(&format!("/conversations?campaign_id={campaign}")).await;
        let first = list.data()[0].clone();
        first.is_object().then_some(first)
    })
    .await;
    let ids = [
        ("CONVERSATION", conversation["id"].as_str().unwrap()),
        ("CONTACT", conversation["contact_id"].as_str().unwrap()),
    ];
    let sent = step(include_str!("quick_example/4-send.sh"), &ids);
    assert_eq!(sent["data"]["subject"], "quick question about djing at The Bell House");

    let draft = until("a draft waits", async || {
        let pending = step(include_str!("quick_example/5-pending.sh"), &[("CAMPAIGN", campaign.as_str())]);
        let drafts = pending["data"].as_array().unwrap();
        // Not of the contact of step 4, whose reply or bounce would end its drafts.
        drafts.iter().find(|draft| draft["conversation_id"] != conversation["id"]).cloned()
    })
    .await;
    let message = draft["id"].as_str().unwrap();
    let approved = step(include_str!("quick_example/6-approve.sh"), &[("MESSAGE", message)]);
    assert_eq!(approved["success"], true);
    until(
        "the approved draft and the direct message are taken, or refused for a mailbox that is not",
        async || {
            let ledger = stack.world.get("/smtp/ledger").await.body;
            (ledger["accepted"].as_u64()? + ledger["rejected"].as_u64()? == 2).then_some(())
        },
    )
    .await;
}
