//! The dispatcher's settings.

use std::time::Duration;

use clap::Args;
use shared::{
    config::parse_duration,
    domain::{
        circuit::{CircuitPolicy, DisableAfter},
        delivery::RetrySchedule,
    },
};

use crate::http_client::ProxyUrl;

/// What the dispatcher needs to know besides what every role does.
#[derive(Debug, Clone, Args)]
pub struct DispatcherConfig {
    /// How many webhook requests one dispatcher has under way at most; those to endpoints that answer slowly take half of
    /// that at most.
    #[arg(long, env = "IRIS_WEBHOOK_SLOTS", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub webhook_slots: u16,

    /// How long after each failed attempt of a delivery the next one is made, give or take a fifth; `none` is one
    /// attempt only.
    #[arg(long, env = "IRIS_WEBHOOK_RETRIES", default_value = "5s,5m,1h")]
    pub webhook_retries: RetrySchedule,

    /// How long a whole attempt may take: resolving the name, connecting, TLS, headers and body.
    #[arg(long, env = "IRIS_WEBHOOK_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub webhook_timeout: Duration,

    /// The proxy that webhooks leave through, such as http://user:password@proxy.internal:3128; without it they go straight
    /// to the endpoints. It is asked to CONNECT to checked addresses, never to names. No other variable names a proxy.
    #[arg(long, env = "IRIS_WEBHOOK_PROXY", hide_env_values = true)]
    pub webhook_proxy: Option<ProxyUrl>,

    /// After how many failed attempts in a row an endpoint is left alone, but for one try now and then; deliveries to it
    /// wait meanwhile.
    #[arg(long, env = "IRIS_WEBHOOK_CIRCUIT_FAILURES", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub webhook_circuit_failures: u16,

    /// Over how long those failures must have come at least.
    #[arg(long, env = "IRIS_WEBHOOK_CIRCUIT_OVER", default_value = "10s", value_parser = parse_duration)]
    pub webhook_circuit_over: Duration,

    /// How long after that the endpoint is tried again; each failed try doubles it, up to 10 min.
    #[arg(long, env = "IRIS_WEBHOOK_CIRCUIT_PAUSE", default_value = "30s", value_parser = parse_duration)]
    pub webhook_circuit_pause: Duration,

    /// After how long without any success an endpoint is disabled and its account told; `off` is never.
    #[arg(long, env = "IRIS_WEBHOOK_DISABLE_AFTER", default_value = "5d")]
    pub webhook_disable_after: DisableAfter,

    /// How many events are relayed in one transaction at most.
    #[arg(long, env = "IRIS_RELAY_BATCH", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub relay_batch: u16,
}

impl DispatcherConfig {
    /// When an endpoint is left alone, and when it is given up.
    pub fn circuit(&self) -> CircuitPolicy {
        CircuitPolicy {
            failures: self.webhook_circuit_failures,
            over: self.webhook_circuit_over,
            pause: self.webhook_circuit_pause,
            disable_after: self.webhook_disable_after,
        }
    }
}

impl Default for DispatcherConfig {
    fn default() -> Self {
        let circuit = CircuitPolicy::default();
        Self {
            webhook_slots: 1024,
            webhook_retries: RetrySchedule::default(),
            webhook_timeout: Duration::from_secs(30),
            webhook_proxy: None,
            webhook_circuit_failures: circuit.failures,
            webhook_circuit_over: circuit.over,
            webhook_circuit_pause: circuit.pause,
            webhook_disable_after: circuit.disable_after,
            relay_batch: 500,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        dispatcher: DispatcherConfig,
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let parsed = Command::try_parse_from(["test"]).map(|command| command.dispatcher).unwrap();
        assert_eq!(format!("{parsed:?}"), format!("{:?}", DispatcherConfig::default()));
        let parsed = Command::try_parse_from(["test", "--webhook-retries", "none"]).unwrap();
        assert_eq!(parsed.dispatcher.webhook_retries.attempts_max(), 1);
        for bad in [
            ["--webhook-retries", ""],
            ["--webhook-slots", "0"],
            ["--webhook-timeout", "30"],
            ["--webhook-proxy", "proxy.internal:3128"],
        ] {
            assert!(Command::try_parse_from(["test", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
    }
}
