//! SIGKILL of each role, once, in the middle of a campaign.

use serde_json::json;
use tests::{ROLES, Stack, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_survives_the_death_of_each_role() {
    let mut stack = Stack::start().await;
    stack.hook("hook", &["message.sent", "conversation.created"]).await;
    let addresses: Vec<String> = (0..40).map(|n| format!("never+{n}@example.com")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let id = stack.campaign(&json!({"followup_days": [1, 2, 3]}), &addresses).await;
    stack.activate(&id).await;
    for (n, role) in ROLES.into_iter().enumerate() {
        let accepted = until("mail flows", async || {
            let accepted = stack.world.get("/smtp/ledger").await.body["accepted"].as_u64()?;
            (accepted > 10 * n as u64).then_some(accepted)
        })
        .await;
        stack.kill(role);
        stack.restart(role);
        assert!(accepted <= 160);
    }
    stack.until_ready().await;
    stack.until_status(&id, "completed").await;

    let steps = stack.messages(&id).await;
    assert_eq!(steps.len(), 160, "four messages for each of forty contacts");
    let unknown = steps.iter().filter(|(_, status)| status == "unknown").count();
    let sent = steps.iter().filter(|(_, status)| status == "sent").count();
    assert_eq!(sent + unknown, 160, "{steps:?}");
    let mail = stack.world.get("/smtp/ledger").await.body;
    assert_eq!(mail["duplicates"], 0, "nothing is sent twice");
    let accepted = usize::try_from(mail["accepted"].as_u64().unwrap()).unwrap();
    assert!((sent..=160).contains(&accepted), "{sent} sent, {unknown} unknown, {accepted} arrived");

    let sent = u64::try_from(sent).unwrap();
    let ledger = until("every event is received", async || {
        let ledger = stack.world.get("/hooks/hook/ledger").await.body;
        (ledger["events"]["message.sent"]["events"] == sent).then_some(ledger)
    })
    .await;
    assert_eq!(ledger["events"]["conversation.created"]["events"], 40);
    assert_eq!(ledger["unverified"], 0);
}
