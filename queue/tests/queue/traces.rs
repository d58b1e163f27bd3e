//! A job carries on the trace of what enqueued it.

use std::time::Duration;

use apalis::prelude::{BoxDynError, Data, WorkerBuilder};
use queue::{Job, Outcome, TraceContext};
use tokio::sync::mpsc;

use crate::support::{Number, database, enqueue, number, runtime, soon};

type Seen = mpsc::UnboundedSender<(i64, TraceContext, Option<TraceContext>)>;

async fn tell(payload: Number, job: Job, seen: Data<Seen>) -> Result<Outcome, BoxDynError> {
    let _ = seen.send((payload.n, job.trace(), TraceContext::current()));
    Ok(Outcome::Done)
}

async fn stored(pool: &sqlx::PgPool) -> Vec<Option<String>> {
    sqlx::query_scalar("select trace from queue.ready order by payload").fetch_all(pool).await.expect("jobs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_the_next_step_of_what_enqueued_it() {
    let database = database().await;
    let pool = database.pool();
    let request = TraceContext::root();
    let given = TraceContext::root();
    let jobs = [number(1), number(2).trace(given)];
    request.scope(enqueue(pool, &jobs)).await;
    enqueue(pool, &[number(3)]).await;
    assert_eq!(stored(pool).await, [Some(request.to_string()), Some(given.to_string()), None]);

    let runtime = runtime(&database, "worker");
    let (seen, mut heard) = mpsc::unbounded_channel::<(i64, TraceContext, Option<TraceContext>)>();
    let worker = WorkerBuilder::new("numbers").backend(runtime.backend::<Number>(1)).data(seen).build(tell);
    let running = tokio::spawn(worker.run());
    for _ in 0..3 {
        let (n, run, current) = soon(heard.recv()).await.unwrap();
        assert_eq!(current, Some(run), "what the handler enqueues comes of its run");
        match n {
            1 => assert!(run.trace_id() == request.trace_id() && run != request),
            2 => assert!(run.trace_id() == given.trace_id() && run != given),
            _ => assert!(![request.trace_id(), given.trace_id()].contains(&run.trace_id())),
        }
    }
    runtime.shutdown(Duration::from_secs(5)).await;
    soon(running).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caused_job_carries_on_the_trace_and_one_that_nobody_can_read_stops_nothing() {
    let database = database().await;
    let pool = database.pool();
    let runtime = runtime(&database, "worker");
    let mut source = runtime.source::<Number>(1);
    let request = TraceContext::root();
    request.scope(enqueue(pool, &[number(1)])).await;
    let claimed = soon(source.next()).await.unwrap();
    enqueue(pool, &[number(2).caused_by(&claimed.job)]).await;
    assert_eq!(stored(pool).await, [Some(claimed.job.trace().to_string())]);
    sqlx::query("update queue.ready set trace = 'nonsense'").execute(pool).await.unwrap();
    claimed.finish(Outcome::Done).await;
    let claimed = soon(source.next()).await.unwrap();
    assert_ne!(claimed.job.trace().trace_id(), request.trace_id());
    claimed.finish(Outcome::Done).await;
    runtime.shutdown(Duration::from_secs(5)).await;
}
