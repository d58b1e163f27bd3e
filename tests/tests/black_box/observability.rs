//! What the roles tell of their work: metrics of every queue, and log lines that one trace joins.

use serde_json::{Value, json};
use tests::{Options, Stack, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn start() -> Stack {
    let log = ("info,queue=debug,dispatcher=debug", "json");
    Stack::start_with(Options { log, ..Options::default() }).await
}

/// The queues whose jobs ran as steps of the trace, by the log of a role.
fn traced(stack: &Stack, role: &str) -> Vec<String> {
    let records = stack.records(role);
    let spans = records.iter().map(|record| &record["span"]);
    let traced = spans.filter(|span| span["name"] == "job" && span["trace"] == TRACE);
    traced.filter_map(|span| span["queue"].as_str().map(ToOwned::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_a_request_to_the_webhooks_that_come_of_it() {
    let stack = start().await;
    stack.hook("hook", &["message.sent"]).await;
    let id = stack.campaign(&json!({"followup_days": [1]}), &["never+1@example.com"]).await;
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let (path, body) = (format!("/campaigns/{id}"), json!({"status": "active"}));
    let activated = stack.api.patch_with(("traceparent", &traceparent), &path, &body).await;
    assert_eq!(activated, 200);
    until("the webhook of the trace", async || traced(&stack, "dispatcher").pop()).await;
    assert_eq!(traced(&stack, "dispatcher")[0], "deliver");
    until("the run of the send job", async || {
        traced(&stack, "worker").contains(&"send".to_owned()).then_some(())
    })
    .await;
    assert!(traced(&stack, "worker").contains(&"draft".to_owned()));

    let requests = stack.records("api");
    let requests: Vec<&Value> = requests
        .iter()
        .filter(|record| record["message"] == "answered")
        .map(|record| &record["span"])
        .collect();
    let of_the_trace: Vec<_> = requests.iter().filter(|span| span["trace"] == TRACE).collect();
    assert_eq!(of_the_trace.len(), 1, "only one request named it");
    assert_eq!(of_the_trace[0]["method"], "PATCH");
    // The others have a trace each.
    let traces: Vec<&str> = requests.iter().filter_map(|span| span["trace"].as_str()).collect();
    assert!(traces.len() > 2 && traces.iter().all(|trace| trace.len() == 32), "{traces:?}");
    let distinct: std::collections::BTreeSet<&str> = traces.iter().copied().collect();
    assert_eq!(distinct.len(), traces.len());
}

/// The value of the metric with these labels.
fn value(metrics: &str, metric: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok())
}

async fn until_metric(stack: &Stack, role: &str, metric: &str, holds: impl Fn(f64) -> bool) {
    until(&format!("{metric} of the {role}"), async || {
        value(&stack.metrics(role).await, metric).filter(|value| holds(*value))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_queue_is_measured() {
    let stack = start().await;
    // A job of a kind that nobody knows, left by a process that died; and one that its kind cannot read.
    sqlx::raw_sql(
        "insert into queue.leases (id, name, expires_at) values (gen_random_uuid(), 'gone', now() - interval '1 s');
         insert into queue.running (shard, id, queue, tenant, lane, priority, max_attempts, payload, lease, capped)
         select 0, gen_random_uuid(), 'fax', 't', 't', 0, 3, '{}', id, false from queue.leases where name = 'gone';
         insert into queue.ready (shard, id, queue, tenant, lane, priority, max_attempts, payload)
         values (0, gen_random_uuid(), 'send', 't', 't', 0, 3, '{}')",
    )
    .execute(stack.database.pool())
    .await
    .unwrap();
    stack.hook("hook", &["message.sent"]).await;
    let id = stack.campaign(&json!({"followup_days": [1]}), &["never+1@example.com"]).await;
    stack.activate(&id).await;
    stack.until_status(&id, "completed").await;

    for metric in [
        r#"queue_claim_seconds_count{queue="send"}"#,
        r#"queue_pickup_seconds_count{queue="send"}"#,
        r#"queue_run_seconds_count{queue="send",outcome="done"}"#,
        r#"queue_outcomes_total{queue="send",outcome="done"}"#,
        r#"queue_outcomes_total{queue="draft",outcome="done"}"#,
        r#"queue_outcomes_total{queue="send",outcome="dead"}"#,
        r#"queue_complete_seconds_count{queue="send"}"#,
        r#"queue_jobs{queue="send",state="dead"}"#,
        r#"queue_jobs{queue="fax",state="ready"}"#,
        r#"queue_oldest_ready_seconds{queue="fax",lanes="open"}"#,
        r#"queue_oldest_ready_seconds{queue="fax",lanes="all"}"#,
        r#"queue_unclaimed{queue="fax"}"#,
    ] {
        until_metric(&stack, "worker", metric, |value| value > 0.0).await;
    }
    for metric in [
        r#"queue_outcomes_total{queue="deliver",outcome="done"}"#,
        r#"queue_pickup_seconds_count{queue="deliver"}"#,
        r#"queue_run_seconds_count{queue="deliver",outcome="done"}"#,
    ] {
        until_metric(&stack, "dispatcher", metric, |value| value > 0.0).await;
    }
    for state in ["ready", "retrying", "throttled", "circuit", "paused"] {
        for metric in ["webhook_oldest_undelivered_seconds", "webhook_endpoints_waiting"] {
            let metric = format!(r#"{metric}{{state="{state}"}}"#);
            until_metric(&stack, "dispatcher", &metric, |value| value >= 0.0).await;
        }
    }
    let (worker, dispatcher) = (stack.metrics("worker").await, stack.metrics("dispatcher").await);
    for state in ["ready", "throttled", "closed", "paused", "running", "timer", "held", "dead"] {
        let metric = format!(r#"queue_jobs{{queue="send",state="{state}"}}"#);
        assert!(value(&worker, &metric).is_some(), "{metric}");
    }
    for lanes in ["open", "throttled", "closed", "paused", "all"] {
        let metric = format!(r#"queue_oldest_ready_seconds{{queue="send",lanes="{lanes}"}}"#);
        assert!(value(&worker, &metric).is_some(), "{metric}");
    }
    assert_eq!(value(&worker, r#"queue_unclaimed{queue="send"}"#), Some(0.0));
    let rescued = r#"queue_rescued_total{queue="fax"}"#;
    let by_both = value(&worker, rescued).unwrap_or(0.0) + value(&dispatcher, rescued).unwrap_or(0.0);
    assert!((by_both - 1.0).abs() < f64::EPSILON, "one of the two rescued it: {by_both}");
    // A job may wait or run for longer than a request.
    assert!(worker.contains(r#"queue_pickup_seconds_bucket{queue="send",le="1800"}"#));
    assert!(worker.contains("# HELP queue_pickup_seconds "));
}
