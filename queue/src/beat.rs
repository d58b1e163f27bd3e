//! The lease of this process: one row, renewed on a thread and a connection of its own, so that neither a busy runtime
//! nor an exhausted pool can let it lapse.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::neighbours::Identity;

/// How often the lease is renewed.
const BEAT: Duration = Duration::from_millis(1500);
/// How long a lease lasts without a beat.
pub(crate) const EXPIRY: Duration = Duration::from_secs(6);
/// How long one beat may take; two fit into an expiry.
const BEAT_DEADLINE: Duration = Duration::from_millis(2500);
/// The pause after a beat that failed.
const RETRY: Duration = Duration::from_millis(250);

/// Nanoseconds of a clock that goes on while the machine or the process sleeps.
fn boot_nanos() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One lease, as its holder judges it: by the clock of this machine, from before the last confirmed beat was sent.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: Uuid,
    until: AtomicU64,
}

impl Lease {
    fn new(id: Uuid, sent_at: u64) -> Self {
        Self { id, until: AtomicU64::new(sent_at.saturating_add(nanos(EXPIRY))) }
    }

    /// Whether the rows claimed under it may already belong to another process.
    pub(crate) fn has_lapsed(&self) -> bool {
        boot_nanos() >= self.until.load(Ordering::Acquire)
    }

    /// How long it still lasts.
    pub(crate) fn remaining(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Acquire).saturating_sub(boot_nanos()))
    }

    fn renew(&self, sent_at: u64) {
        self.until.store(sent_at.saturating_add(nanos(EXPIRY)), Ordering::Release);
    }
}

/// The process's present lease.
#[derive(Debug, Default)]
pub(crate) struct Heart {
    lease: Mutex<Option<Arc<Lease>>>,
}

impl Heart {
    /// The lease to claim under; `None` while there is none.
    pub(crate) fn lease(&self) -> Option<Arc<Lease>> {
        let lease = self.lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        lease.filter(|lease| !lease.has_lapsed())
    }

    fn set(&self, lease: Option<Arc<Lease>>) {
        *self.lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = lease;
    }
}

/// What the beating thread needs.
pub(crate) struct Beat {
    pub(crate) connect: PgConnectOptions,
    pub(crate) name: String,
    pub(crate) heart: Arc<Heart>,
    pub(crate) identity: Option<Identity>,
    pub(crate) stop: CancellationToken,
    /// Told when a lease is taken, so that claiming can begin.
    pub(crate) beating: Box<dyn Fn() + Send>,
    /// Which kinds the process claims.
    pub(crate) queues: Box<dyn Fn() -> Vec<&'static str> + Send>,
}

impl Beat {
    /// Starts the thread; it ends, and gives up the lease, when `stop` is cancelled.
    pub(crate) fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("queue-beat".into()).spawn(move || runtime.block_on(self.run()))
    }

    async fn run(self) {
        let mut connection = None;
        let mut held: Option<Arc<Lease>> = None;
        while !self.stop.is_cancelled() {
            let sent_at = boot_nanos();
            let pause =
                match tokio::time::timeout(BEAT_DEADLINE, self.beat(&mut connection, held.as_ref())).await {
                    Ok(Ok(Some(id))) => {
                        match &held {
                            Some(lease) if lease.id == id => lease.renew(sent_at),
                            _ => {
                                held = Some(Arc::new(Lease::new(id, sent_at)));
                                self.heart.set(held.clone());
                                (self.beating)();
                            }
                        }
                        BEAT
                    }
                    Ok(Ok(None)) => {
                        tracing::warn!("the lease was ended and its jobs rescued; taking a new one");
                        held = None;
                        self.heart.set(None);
                        Duration::ZERO
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "a beat failed");
                        connection = None;
                        RETRY
                    }
                    Err(_) => {
                        tracing::warn!(deadline = ?BEAT_DEADLINE, "a beat was not answered in time");
                        connection = None;
                        RETRY
                    }
                };
            let pause = pause.mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.9..1.0));
            let _ = tokio::time::timeout(pause, self.stop.cancelled()).await;
        }
        if let (Some(lease), Some(connection)) = (held, connection) {
            let _ = tokio::time::timeout(BEAT_DEADLINE, give_up(connection, &lease)).await;
        }
        self.heart.set(None);
    }

    /// Renews the lease, or takes a new one. A lease that expired while the database was away is renewed like any other
    /// as long as nobody has rescued its jobs; `None` says that somebody has.
    async fn beat(
        &self,
        connection: &mut Option<PgConnection>,
        held: Option<&Arc<Lease>>,
    ) -> Result<Option<Uuid>, sqlx::Error> {
        let conn = match connection {
            Some(conn) => conn,
            None => connection.insert(self.connect.connect().await?),
        };
        let seconds = EXPIRY.as_secs_f64();
        if let Some(lease) = held {
            let renewed: Option<(Uuid,)> = sqlx::query_as(
                "update queue.leases set beat_at = clock_timestamp(),
                    expires_at = clock_timestamp() + make_interval(secs => $2),
                    steady_since = case when clock_timestamp() - beat_at > make_interval(secs => $2 / 2)
                        then clock_timestamp() else steady_since end,
                    queues = $3, backend = pg_backend_pid()
                 where id = $1 and expires_at > 'epoch' returning id",
            )
            .bind(lease.id)
            .bind(seconds)
            .bind((self.queues)())
            .fetch_optional(conn)
            .await?;
            return Ok(renewed.map(|(id,)| id));
        }
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into queue.leases (id, name, expires_at, queues, machine, pid, started, backend)
             values ($1, $2, clock_timestamp() + make_interval(secs => $3), $4, $5, $6, $7, pg_backend_pid())",
        )
        .bind(id)
        .bind(&self.name)
        .bind(seconds)
        .bind((self.queues)())
        .bind(self.identity.as_ref().map(|identity| identity.machine.as_str()))
        .bind(self.identity.as_ref().map(|identity| identity.pid))
        .bind(self.identity.as_ref().map(|identity| identity.started))
        .execute(conn)
        .await?;
        Ok(Some(id))
    }
}

/// Ends the lease at once when nothing runs under it; otherwise it expires and its jobs are rescued.
async fn give_up(mut connection: PgConnection, lease: &Lease) {
    let ended = sqlx::query(
        "delete from queue.leases l where l.id = $1 and not exists (select 1 from queue.running r where r.lease = l.id)",
    )
    .bind(lease.id)
    .execute(&mut connection)
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "the lease was not given up; it expires");
    }
    let _ = connection.close().await;
}
