//! Who calls, and what they may do.

use std::{fmt, net::IpAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{Extensions, HeaderMap, header::AUTHORIZATION, request::Parts},
};
use serde_json::Value;
use shared::{
    Tx,
    db::{
        api_keys::{self, ApiKey, Presented},
        audit::{Audit, record_audit},
    },
    ids::{KEY_PREFIX, hash_api_key},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    error::{ApiError, Code},
    limits::{self, RateClass},
    request,
};

/// How long a key is: its prefix and 43 base64url characters.
const KEY_CHARS: usize = KEY_PREFIX.len() + 43;

/// What a key may do. None implies another; `*` is all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// View everything.
    Read,
    /// Change what is the customer's: campaigns, contacts, conversations, notifications.
    Write,
    /// Call what costs: discovery, AI.
    Generate,
    /// Send and approve messages.
    Send,
    /// Manage keys and webhooks.
    Admin,
}

impl Scope {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Generate => "generate",
            Self::Send => "send",
            Self::Admin => "admin",
        }
    }

    /// Every name that a key's scopes may contain.
    pub const NAMES: [&str; 6] = ["read", "write", "generate", "send", "admin", "*"];
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The key that made the request, and where from.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The account that everything the request touches belongs to.
    pub account_id: Uuid,
    /// The key.
    pub key: Arc<ApiKey>,
    /// What the key is found by.
    key_hash: Arc<[u8]>,
    /// The other end of the connection.
    pub ip: Option<IpAddr>,
}

impl Caller {
    /// Whether the key has a scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.key.scopes.iter().any(|granted| granted == "*" || granted == scope.as_str())
    }

    /// Fails unless the key has a scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.may(scope) {
            return Ok(());
        }
        Err(ApiError::new(Code::ScopeMissing).saying(format!("API key missing required scope: {scope}")))
    }

    /// Fails once the key has expired or was revoked, for what goes on after the request was answered.
    pub async fn check_still_live(&self, conn: &mut PgConnection) -> Result<(), ApiError> {
        find_live(conn, &self.key_hash).await.map(drop)
    }

    /// Records an audited operation in its transaction. `metadata` is what an auditor wants to know beyond the id; a
    /// bulk operation has no id, and its ids in there.
    pub async fn audit(
        &self,
        tx: &mut Tx,
        action: &'static str,
        resource_type: &'static str,
        resource_id: Option<Uuid>,
        metadata: Value,
    ) -> Result<(), ApiError> {
        let audit = Audit {
            account_id: self.account_id,
            api_key_id: Some(self.key.id),
            user_id: self.account_id,
            action,
            resource_type,
            resource_id,
            metadata,
            request_id: &request::id(),
            ip: self.ip,
        };
        Ok(record_audit(tx, &audit).await?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // The guard of every route with a key puts it there; a route without one must not ask for it.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::new(Code::Unauthorized))
    }
}

/// Finds out who calls, and charges the request, of one class beside the two that all are of, to their key.
pub async fn authenticate(
    app: &App,
    headers: &HeaderMap,
    extensions: &Extensions,
    class: Option<RateClass>,
) -> Result<Caller, ApiError> {
    let key_hash: Arc<[u8]> = hash_api_key(bearer(headers)?).into();
    let mut conn = app.connection().await?;
    let key = if app.rate_limits {
        let windows = limits::windows(class);
        let (presented, charged) = api_keys::find_charged(&mut conn, &key_hash, &windows).await?;
        let key = live(presented)?;
        charged.map_or(Ok(()), |charged| limits::check(&charged, &windows))?;
        key
    } else {
        find_live(&mut conn, &key_hash).await?
    };
    tracing::Span::current().record("key_id", tracing::field::display(key.id));
    let ip = extensions.get::<ConnectInfo<std::net::SocketAddr>>().map(|info| info.0.ip());
    Ok(Caller { account_id: key.account_id, key: Arc::new(key), key_hash, ip })
}

async fn find_live(conn: &mut PgConnection, key_hash: &[u8]) -> Result<ApiKey, ApiError> {
    live(api_keys::find_presented(conn, key_hash).await?)
}

fn live(presented: Presented) -> Result<ApiKey, ApiError> {
    match presented {
        Presented::Live(key) => Ok(key),
        Presented::Unknown => Err(ApiError::new(Code::KeyInvalid)),
        Presented::Expired => Err(ApiError::new(Code::KeyExpired)),
        Presented::Revoked => Err(ApiError::new(Code::KeyRevoked)),
    }
}

/// The key in the `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Err(ApiError::new(Code::Unauthorized)) };
    let text = value.to_str().map_err(|_| ApiError::new(Code::KeyInvalid))?;
    match text.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let token = token.trim();
            let well_formed = token.len() == KEY_CHARS && token.starts_with(KEY_PREFIX);
            if well_formed { Ok(token) } else { Err(ApiError::new(Code::KeyInvalid)) }
        }
        _ => Err(ApiError::new(Code::Unauthorized)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use shared::ids::new_api_key;

    use super::*;

    #[test]
    fn a_bearer_key_is_told_from_everything_else() {
        let code_of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            bearer(&headers).map(str::to_owned).map_err(|error| error.code())
        };
        let key = new_api_key();
        assert_eq!(code_of(&format!("Bearer {key}")), Ok(key.clone()));
        assert_eq!(code_of(&format!("bearer  {key} ")), Ok(key.clone()));
        assert_eq!(code_of(&format!("Bearer {key}x")), Err(Code::KeyInvalid));
        assert_eq!(code_of("Bearer is_test_abc"), Err(Code::KeyInvalid));
        assert_eq!(code_of("Payment abc"), Err(Code::Unauthorized));
        assert_eq!(code_of(&key), Err(Code::Unauthorized));
        assert!(matches!(bearer(&HeaderMap::new()).map_err(|error| error.code()), Err(Code::Unauthorized)));
    }
}
