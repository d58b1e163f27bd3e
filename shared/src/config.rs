//! Settings that every role has. A role's own are in its crate's `config.rs`; a doc comment is the documentation.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use crate::{Clock, domain::endpoint_url::AllowList, mailbox::MailboxConfig, secrets::SecretKey};

/// What every role needs to know.
#[derive(Debug, Clone, Args)]
pub struct BaseConfig {
    /// The PostgreSQL database, as a URL. Without it every command uses a private one, which it starts in IRIS_HOME.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// The most connections a role opens for its work. Beside them an api has one of its own, a worker or dispatcher seven.
    #[arg(long, env = "IRIS_DATABASE_CONNECTIONS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=500))]
    pub database_connections: u32,

    /// The key that seals stored secrets: 32 bytes in base64. With a DATABASE_URL it must be given; without one iris makes
    /// its own in IRIS_HOME.
    #[arg(long, env = "IRIS_SECRET_KEY", hide_env_values = true)]
    pub secret_key: SecretKey,

    /// The length of a day of a sequence and of a daily cap, such as 24h or 1s. Send windows are not scaled.
    #[arg(long, env = "IRIS_DAY", default_value = "24h", value_parser = parse_duration)]
    pub day: Duration,

    /// The networks and hosts that webhooks may reach although they are private, and by plain http too: a list such as
    /// 10.0.0.0/8,receiver.internal. Looked at when an endpoint is registered and again at every attempt.
    #[arg(long, env = "IRIS_WEBHOOK_ALLOW", default_value = "")]
    pub webhook_allow: AllowList,

    /// How long events, deliveries and attempts of webhooks are kept, such as 30d; at least 2d. They go by whole days, in UTC. A
    /// delivery that is still waiting a day before its time is up is given up.
    #[arg(long, env = "IRIS_HISTORY_KEEP", default_value = "30d", value_parser = parse_history_keep)]
    pub history_keep: Duration,

    /// The mailbox that sends.
    #[command(flatten)]
    pub mailbox: MailboxConfig,

    /// Whether the other roles of this machine may see at once that this one died; otherwise its jobs wait until its lease
    /// expires. To be turned off where machines are running copies of one snapshot.
    #[arg(long, env = "IRIS_SEEN_BY_NEIGHBOURS", default_value_t = true, action = clap::ArgAction::Set)]
    pub seen_by_neighbours: bool,

    /// Where the role serves /health/live, /health/ready and /metrics.
    #[arg(long, env = "IRIS_ADMIN_ADDR", default_value = "127.0.0.1:0")]
    pub admin_addr: SocketAddr,

    /// How long a role may take to finish what is running after SIGTERM.
    #[arg(long, env = "IRIS_SHUTDOWN", default_value = "25s", value_parser = parse_duration)]
    pub shutdown: Duration,
}

impl BaseConfig {
    /// The clock that these settings ask for.
    pub fn clock(&self) -> Clock {
        Clock::system(self.day)
    }
}

/// A duration such as `250ms`, `30s`, `5m`, `24h` or `3d`; more than zero, at most a year.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration > DURATION_MAX {
        return Err("must be more than zero and at most a year".into());
    }
    Ok(duration)
}

/// How long the history is kept: the day before its end is for seeing what was given up, and the one before that for trying.
fn parse_history_keep(text: &str) -> Result<Duration, String> {
    let keep = parse_duration(text)?;
    if keep < HISTORY_KEEP_MIN {
        return Err("must be at least 2d".into());
    }
    Ok(keep)
}

const HISTORY_KEEP_MIN: Duration = Duration::from_secs(2 * 86_400);

/// How long before its history goes a delivery that still waits is given up, so that its account can see it.
const GIVEN_UP_BEFORE: Duration = Duration::from_secs(86_400);

/// How old a delivery that still waits is when it is given up, of a history that is kept for so long.
pub fn given_up_at(history_keep: Duration) -> Duration {
    history_keep.saturating_sub(GIVEN_UP_BEFORE)
}

/// No setting means more than a year.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_kept_for_two_days_at_least() {
        assert_eq!(parse_history_keep("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_history_keep("48h"), Ok(HISTORY_KEEP_MIN));
        for bad in ["47h", "0s", "9999d", "ever"] {
            assert!(parse_history_keep(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit_and_limits() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "h", "-1s", "1x", "0s", "9999d", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
