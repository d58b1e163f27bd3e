//! The API's settings.

use std::{net::SocketAddr, num::NonZeroU32};

use clap::{ArgAction, Args};
use url::Url;

/// Where the API listens, and how much it takes on at once.
#[derive(Debug, Clone, Args)]
pub struct ApiConfig {
    /// Where the API listens.
    #[arg(long, env = "IRIS_API_ADDR", default_value = "127.0.0.1:8080")]
    pub api_addr: SocketAddr,

    /// The base URL at which clients reach the API, when it is not the address itself; /openapi.json names it.
    #[arg(long, env = "IRIS_PUBLIC_URL")]
    pub public_url: Option<Url>,

    /// How many connections may be open at once; the next ones wait in the kernel.
    #[arg(long, env = "IRIS_API_CONNECTIONS_MAX", default_value = "4096")]
    pub api_connections_max: NonZeroU32,

    /// How many requests may run at once; the next ones are answered with 503 `SERVER_009`.
    #[arg(long, env = "IRIS_API_REQUESTS_MAX", default_value = "1024")]
    pub api_requests_max: NonZeroU32,

    /// How many event streams may be open at once; the next ones are answered with 503 `SERVER_009`.
    #[arg(long, env = "IRIS_API_STREAMS_MAX", default_value = "256")]
    pub api_streams_max: NonZeroU32,

    /// Whether a key's requests are counted and those too many answered with 429. `false` is for installations whose only
    /// callers are their operator's own.
    #[arg(long, env = "IRIS_API_RATE_LIMITS", default_value = "true", action = ArgAction::Set)]
    pub api_rate_limits: bool,
}
