//! The audit log: who did what through the API, written in the transaction of the operation it records.

use std::net::IpAddr;

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ids::new_id;

/// One audited operation.
#[derive(Debug)]
pub struct Audit<'a> {
    /// The account it happened in.
    pub account_id: Uuid,
    /// The key that did it.
    pub api_key_id: Option<Uuid>,
    /// On whose behalf: the account's owner, who has the account's id, or an agent's identity.
    pub user_id: Uuid,
    /// Which operation, such as `create_campaign`.
    pub action: &'a str,
    /// What it changed, such as `campaign`.
    pub resource_type: &'a str,
    /// Which one; none for a bulk operation, whose ids are in `metadata`.
    pub resource_id: Option<Uuid>,
    /// What else an auditor wants to know.
    pub metadata: Value,
    /// The request, as its response named it.
    pub request_id: &'a str,
    /// Where the request came from.
    pub ip: Option<IpAddr>,
}

/// Records an audited operation.
pub async fn record_audit(conn: &mut PgConnection, audit: &Audit<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into api_audit_log
            (account_id, id, api_key_id, user_id, action, resource_type, resource_id, metadata, request_id, ip)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::inet)",
    )
    .bind(audit.account_id)
    .bind(new_id())
    .bind(audit.api_key_id)
    .bind(audit.user_id)
    .bind(audit.action)
    .bind(audit.resource_type)
    .bind(audit.resource_id)
    .bind(&audit.metadata)
    .bind(audit.request_id)
    .bind(audit.ip.map(|ip| ip.to_string()))
    .execute(conn)
    .await?;
    Ok(())
}
