//! Sends one approved message, at most once.
//!
//! ```text
//!     prepare ---> offer ---> mark ---> deliver ---> record
//!        |           |          |          |
//!        |           |          |          +-- no final answer: unknown, never sent again by itself
//!        |           |          +-- the database says no (a reply came, paused): the offer is dropped, nothing left
//!        |           +-- refused: bounced, failed, or tried again
//!        +-- nothing to do, blocked, or a run before this one died after its mark: unknown
//! ```
//!
//! Everything up to the offer may be repeated. The mark is one short transaction, and the one arbiter: who marks a message
//! `sending` may send its text, nobody else. What can go wrong after it is recorded by the same run, or by the next one,
//! which finds the mark and knows that the text may have left.

use std::time::Duration;

use queue::{CompleteError, Job, Outcome};
use shared::{
    Tx,
    domain::message::BlockedReason,
    engine::{
        self, EngineError,
        sending::{Marked, Outgoing, Prepared},
    },
    jobs,
};
use tokio::time::Instant;

use super::{DATABASE_DEADLINE, Handled, Shared, finish, within};
use crate::{
    channels::{Delivered, Letter, Offer, Refusal},
    context::Context,
};

/// How long to wait when the mark was refused; the next run asks why.
const REFUSED_MARK_PAUSE: Duration = Duration::from_secs(1);
/// How long a run that has sent a text keeps trying to record what came of it. A database restarts within minutes; after
/// that the next run finds the mark.
const RECORD_DEADLINE: Duration = Duration::from_secs(300);
/// The first pause before such a try, and the longest.
const RECORD_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The longest wait before a deferred message is tried again. RFC 5321 4.5.4.1 asks for half an hour between tries but
/// allows quicker ones at first, which greylisting and a busy server reward.
const DEFERRED_MAX: Duration = Duration::from_secs(4 * 3600);

/// Runs the job. It has no deadline as a whole, for nothing may drop it between its mark and the final answer: each of
/// its steps has one.
pub async fn run(payload: jobs::Send, job: Job, ctx: Shared) -> Handled {
    let prepare = async {
        let mut conn = ctx.database.pool().acquire().await?;
        engine::sending::prepare(&mut conn, &ctx.clock, payload.account_id, payload.message_id).await
    };
    match within(DATABASE_DEADLINE, prepare).await? {
        Prepared::Ready(outgoing) => send(&ctx, &job, &outgoing).await,
        Prepared::Blocked { reason, after } => {
            within(DATABASE_DEADLINE, wait(&ctx, &job, &payload, reason, after)).await
        }
        Prepared::Homeless => within(DATABASE_DEADLINE, bind(&ctx, &job, &payload)).await,
        Prepared::Finished => Ok(Outcome::Done),
        Prepared::WasSending => within(DATABASE_DEADLINE, lose(&ctx, &job, &payload)).await,
    }
}

/// Records that nobody knows what became of a message that a run before this one marked.
async fn lose(ctx: &Context, job: &Job, payload: &jobs::Send) -> Handled {
    let error = "the worker that sent it died before the final answer";
    count("unknown");
    let mut tx = ctx.database.begin().await?;
    let (account_id, message_id) = (payload.account_id, payload.message_id);
    engine::sending::record_unknown(&mut tx, &ctx.clock, account_id, message_id, error).await?;
    finish(tx, job, Outcome::Done).await
}

/// Records why the message waits, or that it never goes out.
async fn wait(
    ctx: &Context,
    job: &Job,
    payload: &jobs::Send,
    reason: BlockedReason,
    after: Option<Duration>,
) -> Handled {
    count("blocked");
    let mut tx = ctx.database.begin().await?;
    engine::sending::record_blocked(&mut tx, payload.account_id, payload.message_id, reason, after).await?;
    finish(tx, job, after.map_or(Outcome::Done, Outcome::snooze)).await
}

/// Gives the message a mailbox, in whose lane another job sends it, or waits for one.
async fn bind(ctx: &Context, job: &Job, payload: &jobs::Send) -> Handled {
    let mut tx = ctx.database.begin().await?;
    let after = engine::sending::bind_mailbox(&mut tx, payload.account_id, payload.message_id).await?;
    if after.is_some() {
        count("blocked");
    }
    finish(tx, job, after.map_or(Outcome::Done, Outcome::snooze)).await
}

async fn send(ctx: &Context, job: &Job, outgoing: &Outgoing) -> Handled {
    let begun = Instant::now();
    let offered = match ctx.smtp_url(&outgoing.mailbox) {
        Ok(url) => ctx.channels.offer(outgoing.channel, &letter(ctx, outgoing), &url).await,
        Err(error) => Err(Refusal::Unavailable { error: error.to_string() }),
    };
    metrics::histogram!("iris_smtp_offer_seconds").record(begun.elapsed().as_secs_f64());
    match offered {
        Ok(offer) => deliver(ctx, job, outgoing, offer).await,
        Err(refusal) => within(DATABASE_DEADLINE, refused(ctx, job, outgoing, refusal)).await,
    }
}

fn letter(ctx: &Context, outgoing: &Outgoing) -> Letter {
    let (sender, mailbox) = (&outgoing.sender, &outgoing.mailbox);
    Letter {
        channel_account_id: mailbox.id,
        from: mailbox.address.clone(),
        from_name: sender.name.clone().or_else(|| mailbox.display_name.clone()),
        reply_to: sender.reply_to.clone(),
        to: outgoing.to.clone(),
        to_name: outgoing.to_name.clone(),
        subject: outgoing.subject.clone(),
        text: outgoing.body.clone(),
        signature: sender.signature.clone(),
        postal_address: sender.postal_address.clone(),
        message_id: outgoing.rfc_message_id.clone(),
        in_reply_to: outgoing.in_reply_to.clone(),
        references: outgoing.references.clone(),
        at: ctx.clock.now(),
    }
}

/// Marks the message and sends its text.
async fn deliver(ctx: &Context, job: &Job, outgoing: &Outgoing, offer: Offer<'_>) -> Handled {
    // Before the mark, not after: between a commit and its answer the job must not be dropped either, or the message
    // would stay marked with nobody to say what became of it.
    job.protect();
    let tx = match within(DATABASE_DEADLINE, mark(ctx, job, outgoing)).await? {
        Mark::Ready(tx) => tx,
        Mark::Withdrawn(outcome) => {
            count("withdrawn");
            return Ok(outcome);
        }
    };
    let commit = async { Ok::<_, EngineError>(tx.commit().await?) };
    if let Err(error) = within(DATABASE_DEADLINE, commit).await {
        // The mark may be there. The text is not sent, and the offer goes back before anything else happens.
        drop(offer);
        count("withdrawn");
        let unsent =
            Delivered::Refused(Refusal::Deferred { error: format!("the mark was not confirmed: {error}") });
        return record_surely(ctx, job, outgoing, &unsent).await;
    }
    let delivered = offer.deliver().await;
    record_surely(ctx, job, outgoing, &delivered).await
}

/// A mark that only lacks its commit, or how the job ends because the text must not leave.
enum Mark {
    Ready(Tx),
    Withdrawn(Outcome),
}

async fn mark(ctx: &Context, job: &Job, outgoing: &Outgoing) -> Result<Mark, EngineError> {
    let mut tx = ctx.database.begin().await?;
    let marked = engine::sending::mark_sending(
        &mut tx,
        &ctx.clock,
        outgoing.account_id,
        outgoing.message_id,
        &outgoing.to,
    )
    .await?;
    if let Marked::No = marked {
        tx.rollback().await?;
        return Ok(Mark::Withdrawn(Outcome::snooze(REFUSED_MARK_PAUSE)));
    }
    // A reply may cancel the group while the text is on its way; if this process then dies, the next run must still find
    // the mark and say what is known of the message.
    match job.detach(&mut tx).await {
        Ok(()) => Ok(Mark::Ready(tx)),
        Err(CompleteError::Stale) => {
            tx.rollback().await?;
            Ok(Mark::Withdrawn(Outcome::Cancelled))
        }
        Err(CompleteError::Database(error)) => Err(error.into()),
    }
}

/// Records what came of a text, for as long as it takes the database to answer.
async fn record_surely(ctx: &Context, job: &Job, outgoing: &Outgoing, delivered: &Delivered) -> Handled {
    let ends = Instant::now() + RECORD_DEADLINE;
    let (mut pause, pause_max) = RECORD_PAUSES;
    loop {
        match within(DATABASE_DEADLINE, record(ctx, job, outgoing, delivered)).await {
            Err(error) if error.is_database() && Instant::now() < ends => {
                tracing::warn!(%error, message = %outgoing.message_id, "what came of a message is not recorded yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(pause_max);
            }
            Err(error) => return Err(error.into()),
            Ok(outcome) => return Ok(outcome),
        }
    }
}

/// Records what came of a text together with the end of the job. When another run has taken the job over, that run found
/// the mark and recorded `unknown`; a definite answer resolves it, anything else is left.
async fn record(
    ctx: &Context,
    job: &Job,
    outgoing: &Outgoing,
    delivered: &Delivered,
) -> Result<Outcome, EngineError> {
    let mut tx = ctx.database.begin().await?;
    let outcome = ending(job, delivered);
    match job.complete(&mut tx, &outcome).await {
        Ok(()) => {
            write(ctx, &mut tx, outgoing, delivered, &outcome).await?;
            tx.commit().await?;
            count(label(delivered));
            Ok(outcome)
        }
        Err(CompleteError::Stale) => {
            let definite =
                matches!(delivered, Delivered::Accepted | Delivered::Refused(Refusal::Bounced { .. }));
            if definite {
                write(ctx, &mut tx, outgoing, delivered, &outcome).await?;
                tx.commit().await?;
                count("late");
            }
            Ok(Outcome::Cancelled)
        }
        Err(CompleteError::Database(error)) => Err(error.into()),
    }
}

/// How the job ends.
fn ending(job: &Job, delivered: &Delivered) -> Outcome {
    match delivered {
        Delivered::Refused(Refusal::Deferred { error } | Refusal::Unavailable { error })
            if !job.is_last_attempt() =>
        {
            Outcome::Retry { error: error.clone(), after: Some(deferral(job.attempt())) }
        }
        Delivered::Accepted | Delivered::Refused(_) | Delivered::Unknown { .. } => Outcome::Done,
    }
}

async fn write(
    ctx: &Context,
    tx: &mut Tx,
    outgoing: &Outgoing,
    delivered: &Delivered,
    outcome: &Outcome,
) -> Result<(), EngineError> {
    let (account_id, message_id) = (outgoing.account_id, outgoing.message_id);
    match delivered {
        Delivered::Accepted => {
            engine::sending::record_sent(tx, &ctx.clock, account_id, message_id).await?;
        }
        Delivered::Unknown { error } => {
            engine::sending::record_unknown(tx, &ctx.clock, account_id, message_id, error).await?;
        }
        Delivered::Refused(Refusal::Bounced { error }) => {
            engine::sending::record_bounced(tx, account_id, message_id, &outgoing.to, error).await?;
        }
        Delivered::Refused(Refusal::Failed { error }) => {
            engine::sending::record_failed(tx, account_id, message_id, error).await?;
        }
        Delivered::Refused(Refusal::Deferred { error } | Refusal::Unavailable { error }) => match outcome {
            Outcome::Retry { after: Some(after), .. } => {
                engine::sending::record_put_back(tx, account_id, message_id, error).await?;
                engine::sending::record_put_off(tx, account_id, message_id, None, error, *after).await?;
            }
            _ => {
                engine::sending::record_failed(tx, account_id, message_id, &given_up(error)).await?;
            }
        },
    }
    Ok(())
}

/// A refusal before the mark: nothing has left.
async fn refused(ctx: &Context, job: &Job, outgoing: &Outgoing, refusal: Refusal) -> Handled {
    let (account_id, message_id) = (outgoing.account_id, outgoing.message_id);
    let mut tx = ctx.database.begin().await?;
    let outcome = match refusal {
        Refusal::Bounced { error } => {
            count("bounced");
            engine::sending::record_bounced(&mut tx, account_id, message_id, &outgoing.to, &error).await?;
            Outcome::Done
        }
        Refusal::Failed { error } => {
            count("failed");
            engine::sending::record_failed(&mut tx, account_id, message_id, &error).await?;
            Outcome::Done
        }
        Refusal::Deferred { error } if job.is_last_attempt() => {
            count("failed");
            engine::sending::record_failed(&mut tx, account_id, message_id, &given_up(&error)).await?;
            Outcome::Done
        }
        Refusal::Deferred { error } => {
            count("deferred");
            let after = deferral(job.attempt());
            engine::sending::record_put_off(&mut tx, account_id, message_id, None, &error, after).await?;
            Outcome::Retry { error, after: Some(after) }
        }
        Refusal::Unavailable { error } => {
            count("unavailable");
            let after = ctx.channels.trouble(outgoing.mailbox.id);
            tracing::warn!(
                error,
                mailbox = outgoing.mailbox.address,
                ?after,
                "the mailbox cannot send for now"
            );
            // The whole lane waits: its other messages would only find out the same, a slot each. They show its reason.
            let reason = BlockedReason::MailboxPaused;
            engine::sending::record_put_off(&mut tx, account_id, message_id, Some(reason), &error, after)
                .await?;
            queue::lanes::close(&mut tx, job.queue(), job.lane(), after, reason.as_str()).await?;
            Outcome::snooze(after)
        }
    };
    finish(tx, job, outcome).await
}

/// How long a deferred message waits after so many attempts: 2 s, 8 s, 32 s and so on up to 4 h; twelve attempts make
/// about 19 h.
fn deferral(attempt: u32) -> Duration {
    Duration::from_secs(2 * 4_u64.saturating_pow(attempt.min(16))).min(DEFERRED_MAX)
}

fn given_up(error: &str) -> String {
    format!("given up after too many tries: {error}")
}

fn label(delivered: &Delivered) -> &'static str {
    match delivered {
        Delivered::Accepted => "sent",
        Delivered::Unknown { .. } => "unknown",
        Delivered::Refused(Refusal::Bounced { .. }) => "bounced",
        Delivered::Refused(Refusal::Failed { .. }) => "failed",
        Delivered::Refused(Refusal::Deferred { .. } | Refusal::Unavailable { .. }) => "put_back",
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("iris_sends_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deferrals_grow_from_seconds_to_hours() {
        assert_eq!(deferral(0), Duration::from_secs(2));
        assert_eq!(deferral(2), Duration::from_secs(32));
        assert_eq!(deferral(11), DEFERRED_MAX);
        assert_eq!(deferral(u32::MAX), DEFERRED_MAX);
        let total: Duration = (0..12).map(deferral).sum();
        assert!(total > Duration::from_secs(12 * 3600));
    }
}
