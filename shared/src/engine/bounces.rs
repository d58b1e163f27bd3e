//! What a hard bounce and a request to stop mean for a contact.

use uuid::Uuid;

use super::{EngineError, sequence};
use crate::{
    Tx,
    db::{
        self,
        notifications::{self, NotificationType, Resource, ResourceType},
        outbox,
        suppressions::{SuppressionKind, SuppressionReason},
    },
    domain::{
        Channel, changes,
        contact::ContactStatus,
        enrolment::{Enrolment, StopReason},
        message::{Message, MessageStatus},
    },
    events::{EventType, NewEvent},
};

/// Records that a locked message came back for good; `bad_address` if that says that this address is no good, so that it is
/// never written to again. A message whose fate is known already stays as it is.
pub(super) async fn record(
    tx: &mut Tx,
    message: &Message,
    enrolment: Option<Enrolment>,
    error: &str,
    bad_address: Option<&str>,
) -> Result<Message, EngineError> {
    if !message.status.may_become(MessageStatus::Bounced) {
        return Ok(message.clone());
    }
    let account_id = message.account_id;
    let bounced =
        db::messages::record_refused(tx, account_id, message.id, MessageStatus::Bounced, error).await?;
    let event = NewEvent::new(account_id, EventType::MessageBounced, message.id, bounced.public());
    outbox::append(tx, &[event]).await?;
    let resource = Resource { kind: ResourceType::Message, id: message.id };
    notifications::tell_of_campaign(
        tx,
        account_id,
        message.campaign_id,
        NotificationType::MessageBounced,
        resource,
    )
    .await?;
    if let Some(enrolment) = enrolment {
        sequence::stop(tx, account_id, &[enrolment], StopReason::Bounced).await?;
    }
    if bad_address.is_some() && message.channel == Channel::Email {
        suppress(tx, account_id, message.contact_id, bad_address, SuppressionReason::Bounced).await?;
    }
    Ok(bounced)
}

/// Never writes to an address of a contact again: the one that is given, or the one it has. One that it has no more says
/// nothing of the contact's status. Raises contact.updated unless the contact's status says so already; one
/// that asked to stop stays `unsubscribed` when it bounces too.
pub(super) async fn suppress(
    tx: &mut Tx,
    account_id: Uuid,
    contact_id: Uuid,
    address: Option<&str>,
    reason: SuppressionReason,
) -> Result<(), EngineError> {
    let Some(contact) = db::contacts::lock(tx, account_id, contact_id).await? else { return Ok(()) };
    if let Some(email) = address.or(contact.email.as_deref()) {
        db::suppressions::insert(tx, account_id, SuppressionKind::Email, email, reason).await?;
    }
    if address.is_some_and(|address| contact.email.as_deref() != Some(address)) {
        return Ok(());
    }
    let status = match reason {
        SuppressionReason::Bounced if contact.status == ContactStatus::Unsubscribed => return Ok(()),
        SuppressionReason::Bounced => ContactStatus::Bounced,
        SuppressionReason::OptedOut
        | SuppressionReason::Complained
        | SuppressionReason::Manual
        | SuppressionReason::Erased => ContactStatus::Unsubscribed,
    };
    if contact.status == status {
        return Ok(());
    }
    let after = db::contacts::record_status(tx, account_id, contact_id, status).await?;
    let public = after.public();
    if let Some(previous) = changes::previous(&contact.public(), &public) {
        let data = changes::with_previous(&public, previous);
        outbox::append(tx, &[NewEvent::new(account_id, EventType::ContactUpdated, contact_id, data)]).await?;
    }
    Ok(())
}
