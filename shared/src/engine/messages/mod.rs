//! Drafting, approving and rejecting the messages of a sequence, and direct sends.

mod decide;
mod direct;
mod draft;

use queue::{NewJob, RunAt};

use super::EngineError;
use crate::{
    domain::{
        message::Message,
        template::{self, OUTPUT_BYTES_MAX, Rendered},
    },
    jobs::{self, enrolment_group},
};

pub use decide::{Edits, IDS_MAX, REASON_CHARS_MAX, approve, approve_many, reject, reject_many};
pub use direct::{DirectSend, send_direct};
pub use draft::{Draft, DraftContext, DraftWork, RecordedDraft, prepare_draft, record_draft};

/// Direct sends go before the sequence's messages in a mailbox.
const PRIORITY_DIRECT: i16 = -10;

/// The job that sends an approved message: in the lane of its mailbox, in the group of its enrolment, when it is due.
pub(super) fn send_job(message: &Message) -> Result<NewJob, EngineError> {
    let payload = jobs::Send { account_id: message.account_id, message_id: message.id };
    let lane = message.channel_account_id.unwrap_or(message.account_id);
    let job = NewJob::new(&payload, message.account_id.to_string())?.lane(lane.to_string());
    Ok(match message.enrolment_id {
        Some(enrolment_id) => job
            .group(enrolment_group(message.campaign_id, enrolment_id))
            .run_at(message.due_at.map_or(RunAt::Now, RunAt::At)),
        None => job.priority(PRIORITY_DIRECT),
    })
}

/// The variables left open in a subject and a text.
fn unresolved(subject: Option<&str>, content: &str) -> Vec<String> {
    let mut names = template::unresolved(subject.unwrap_or_default());
    for name in template::unresolved(content) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A text that its variables made too long must not go out without its end. A subject that is, is too long anyway.
fn check_whole(content: &Rendered) -> Result<(), EngineError> {
    if content.cut {
        let reason = format!("must have at most {OUTPUT_BYTES_MAX} bytes with its variables filled");
        return Err(EngineError::invalid("content", reason));
    }
    Ok(())
}

/// A value must not end the header line that it is put into.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
