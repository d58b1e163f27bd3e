//! The demo itself: a whole campaign from one command.

use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_adds_up() {
    let home = tempfile::tempdir().unwrap();
    let server = testkit::server_url().await;
    let output = tokio::task::spawn_blocking(move || {
        tests::iris_command()
            .args(["demo", "--contacts", "60", "--json"])
            // A setting of the caller that no role could start with.
            .env("IRIS_SMTP_ANSWER_TIMEOUT", "never")
            .env("IRIS_HOME", home.path())
            .env("IRIS_WORLD_BIN", tests::world())
            .env("DATABASE_URL", server)
            .output()
            .expect("iris runs")
    })
    .await
    .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let table: Value = serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON");
    for key in [
        "contacts",
        "drafted",
        "sent",
        "followups",
        "replies",
        "stopped_by_reply",
        "bounced",
        "unknown",
        "crossed",
        "sent_twice",
        "events",
        "deliveries",
        "verified",
        "webhook_duplicates",
        "lost",
        "seconds",
    ] {
        assert!(table[key].is_number(), "no {key} in {table}");
    }
    assert_eq!(
        (&table["contacts"], &table["lost"], &table["sent_twice"]),
        (&60.into(), &0.into(), &0.into())
    );
    assert_eq!(table["events"], table["verified"]);
    assert!(table["replies"].as_i64() > Some(0) && table["bounced"].as_i64() > Some(0), "{table}");
}
