//! A database that does not answer for longer than a lease lasts, while handlers wait.

use std::{path::PathBuf, str::FromStr, time::Duration};

use crate::support::{Number, claim_by, count, database, enqueue, number, soon, until};
use apalis::prelude::{BoxDynError, Data, WorkerBuilder};
use queue::{Job, Notifier, Outcome, Rota, Runtime, RuntimeConfig};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
};
use tokio_util::task::AbortOnDropHandle;

/// Stands between a runtime and its database, and can stop passing bytes on without closing anything.
struct Proxy {
    url: String,
    frozen: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

/// Where the database listens: the directory of its socket, or nothing for TCP.
#[derive(Clone)]
struct Upstream {
    socket: Option<PathBuf>,
    host: String,
    port: u16,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Proxy {
    async fn start(url: &str) -> Self {
        let options = PgConnectOptions::from_str(url).expect("a URL");
        let upstream = Upstream {
            socket: options.get_socket().cloned(),
            host: options.get_host().to_owned(),
            port: options.get_port(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let (frozen, thawed) = watch::channel(false);
        let accepting = tokio::spawn(async move {
            let mut passing = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                passing.spawn(pass_both(client, upstream.clone(), thawed.clone()));
            }
        });
        let (credentials, database) = {
            let plain = url.split('?').next().expect("a URL");
            let (credentials, rest) = plain.split_once('@').expect("a user");
            (credentials, rest.split_once('/').expect("a database").1)
        };
        Self {
            url: format!("{credentials}@127.0.0.1:{port}/{database}?sslmode=disable"),
            frozen,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }
}

async fn pass_both(client: TcpStream, upstream: Upstream, thawed: watch::Receiver<bool>) {
    let server: std::io::Result<Box<dyn Stream>> = match upstream.socket {
        Some(dir) => UnixStream::connect(dir.join(format!(".s.PGSQL.{}", upstream.port)))
            .await
            .map(|stream| Box::new(stream) as Box<dyn Stream>),
        None => TcpStream::connect((upstream.host, upstream.port))
            .await
            .map(|stream| Box::new(stream) as Box<dyn Stream>),
    };
    let Ok(server) = server else { return };
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    tokio::join!(pass(from_client, to_server, thawed.clone()), pass(from_server, to_client, thawed));
}

/// Passes bytes on until the end; while the proxy is frozen they wait, like on a network that drops everything.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut thawed: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if thawed.wait_for(|frozen| !frozen).await.is_err() || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
    let _ = thawed.wait_for(|frozen| !frozen).await;
    let _ = to.shutdown().await;
}

#[derive(Debug, PartialEq)]
enum Event {
    Started,
    Dropped,
    /// With what was counted against the job.
    Ended {
        run: i32,
        attempt: u32,
        crashes: u32,
    },
}

type Events = mpsc::UnboundedSender<Event>;

/// Tells that its handler is gone.
struct Guard(Events);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Dropped);
    }
}

/// Waits for ever in its first run, and completes in the second.
async fn wait_once(
    _: Number,
    job: Job,
    events: Data<Events>,
    pool: Data<PgPool>,
) -> Result<Outcome, BoxDynError> {
    if job.run() == 1 {
        let _guard = Guard((*events).clone());
        events.send(Event::Started)?;
        std::future::pending::<()>().await;
    }
    let mut tx = pool.begin().await?;
    sqlx::query("insert into accepted values ($1)").bind(job.run()).execute(&mut *tx).await?;
    job.complete(&mut tx, &Outcome::Done).await?;
    tx.commit().await?;
    events.send(Event::Ended { run: job.run(), attempt: job.attempt(), crashes: job.crashes() })?;
    Ok(Outcome::Done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_waits_is_dropped_when_its_lease_lapses_and_runs_again_once_it_is_renewed() {
    let database = database().await;
    let pool = database.pool();
    sqlx::query("create table accepted (run integer)").execute(pool).await.unwrap();
    let proxy = Proxy::start(database.url()).await;
    let runtime = Runtime::start(RuntimeConfig {
        name: "frozen".into(),
        connect: PgConnectOptions::from_str(&proxy.url).unwrap(),
        notifier: Notifier::disabled(),
        seen_by_neighbours: true,
        listen: true,
        schedules: Vec::new(),
    })
    .unwrap();
    let (events, mut heard) = mpsc::unbounded_channel::<Event>();
    let worker = WorkerBuilder::new("numbers")
        .backend(runtime.backend::<Number>(2))
        .data(events)
        .data(pool.clone())
        .build(wait_once);
    let running = tokio::spawn(worker.run());
    enqueue(pool, &[number(1)]).await;
    assert_eq!(soon(heard.recv()).await, Some(Event::Started));
    let lease: uuid::Uuid =
        sqlx::query_scalar("select lease from queue.running").fetch_one(pool).await.unwrap();

    proxy.frozen.send_replace(true);
    assert_eq!(soon(heard.recv()).await, Some(Event::Dropped));
    // To the database it has lapsed as well: whoever lives might rescue the job.
    soon(async {
        let lapsed = "select count(*) from queue.leases where expires_at < clock_timestamp()";
        while sqlx::query_scalar::<_, i64>(lapsed).fetch_one(pool).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(count(pool, "running").await, 1, "nobody could hand it back yet");
    proxy.frozen.send_replace(false);

    let ended = soon(heard.recv()).await.unwrap();
    assert!(
        matches!(ended, Event::Ended { run: 2.., attempt: 0, crashes: 0 }),
        "neither an attempt nor a crash: {ended:?}"
    );
    for table in ["running", "ready", "deferred", "dead"] {
        until(pool, table, 0).await;
    }
    let accepted: i64 = sqlx::query_scalar("select count(*) from accepted").fetch_one(pool).await.unwrap();
    assert_eq!(accepted, 1);
    let leases: Vec<uuid::Uuid> =
        sqlx::query_scalar("select id from queue.leases").fetch_all(pool).await.unwrap();
    assert_eq!(leases, [lease], "it was renewed");
    runtime.shutdown(Duration::from_secs(5)).await;
    soon(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_stopped_process_holds_locked_does_not_hold_up_its_other_jobs() {
    let database = database().await;
    let pool = database.pool();
    enqueue(pool, &[number(1), number(2)]).await;
    let lease = crate::support::lease(pool).await;
    let claimed = claim_by(pool, lease, &mut Rota::default(), 2, true).await;
    assert_eq!(claimed.len(), 2);
    let mut stopped = pool.begin().await.unwrap();
    let held = "select id from queue.running order by id limit 1 for update";
    sqlx::query(held).execute(&mut *stopped).await.unwrap();
    let rescue = async || {
        let rescued = "select coalesce(sum(rescued), 0)::int8 from queue.rescue(3, 10, interval '6 seconds', false, $1)";
        let rescued: i64 = sqlx::query_scalar(rescued).bind(vec![lease]).fetch_one(pool).await.unwrap();
        (rescued, count(pool, "leases").await)
    };
    assert_eq!(rescue().await, (1, 1));
    let over = "select count(*) from queue.leases where expires_at = 'epoch'";
    assert_eq!(sqlx::query_scalar::<_, i64>(over).fetch_one(pool).await.unwrap(), 1, "no beat renews it");
    assert_eq!(rescue().await, (0, 1));
    stopped.rollback().await.unwrap();
    assert_eq!(rescue().await, (1, 0));
}
