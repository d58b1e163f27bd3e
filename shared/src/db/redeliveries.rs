//! Deliveries that are made again: one that a person asks for, or many of a replay.
//!
//! One that was never acknowledged keeps its id, so that its receiver sees another attempt of it; an acknowledged one stays
//! as it is, and its event becomes a new delivery.
//!
//! A pending delivery has one job: it ends in the transaction in which the delivery stops being pending, and another one is
//! enqueued only in that in which it becomes pending again, under its row's lock. A delivery that was given up with its
//! history stops being pending without its job; that is why the old ones are left alone here.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use queue::{EnqueueError, JobKind, NewJob, operate};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{
    Tx,
    deliveries::{self, NewDelivery},
};
use crate::{
    domain::delivery::{Delivery, DeliveryStatus},
    ids::new_id,
    jobs::Deliver,
};

/// What asking for a delivery again led to.
#[derive(Debug)]
pub enum Redelivered {
    /// It waits for an attempt, or one is being made. Another one of the event than was named, if that was acknowledged.
    Delivery(Box<Delivery>),
    /// The account has no such endpoint.
    EndpointNotFound,
    /// The endpoint has no such delivery.
    DeliveryNotFound,
    /// The endpoint is disabled.
    EndpointDisabled,
    /// The event's body is no longer kept, or the delivery not much longer.
    EventGone,
}

#[derive(FromRow)]
struct Known {
    status: DeliveryStatus,
    event_id: Uuid,
    #[sqlx(rename = "type")]
    kind: String,
    job_id: Option<Uuid>,
    kept: bool,
}

/// A person's wish waits behind nothing but what waited before.
const PRIORITY: i16 = 0;

/// Has a delivery made again, at once, unless it is older than `age_max`. Of one that is pending nothing changes but that its
/// next attempt is due now.
pub async fn redeliver(
    tx: &mut Tx,
    account_id: Uuid,
    endpoint_id: Uuid,
    delivery_id: Uuid,
    age_max: Duration,
) -> Result<Redelivered, EnqueueError> {
    let enabled: Option<bool> = sqlx::query_scalar(
        "select enabled from endpoints where account_id = $1 and id = $2 and deleted_at is null",
    )
    .bind(account_id)
    .bind(endpoint_id)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(enabled) = enabled else { return Ok(Redelivered::EndpointNotFound) };
    let known: Option<Known> = sqlx::query_as(
        "select d.status, d.event_id, d.type, d.job_id,
            d.id >= uuid_v7_floor(now() - make_interval(secs => $4))
                and exists (select from events v where v.account_id = d.account_id and v.id = d.event_id) as kept
         from deliveries d where d.account_id = $1 and d.id = $2 and d.endpoint_id = $3 for no key update of d",
    )
    .bind(account_id)
    .bind(delivery_id)
    .bind(endpoint_id)
    .bind(age_max.as_secs_f64())
    .fetch_optional(&mut **tx)
    .await?;
    let known = match known {
        None => return Ok(Redelivered::DeliveryNotFound),
        Some(_) if !enabled => return Ok(Redelivered::EndpointDisabled),
        Some(known) if !known.kept => return Ok(Redelivered::EventGone),
        Some(known) => known,
    };
    let waiting = match known.status {
        DeliveryStatus::Pending => {
            bring_forward(tx, account_id, endpoint_id, delivery_id, known.job_id).await?;
            Some(delivery_id)
        }
        // Who asks twice gets one.
        DeliveryStatus::Succeeded => find_pending(tx, account_id, endpoint_id, known.event_id).await?,
        DeliveryStatus::Exhausted | DeliveryStatus::Cancelled => None,
    };
    let id = if let Some(id) = waiting {
        id
    } else {
        let failed = known.status != DeliveryStatus::Succeeded;
        let again =
            Again { event_id: known.event_id, kind: known.kind, delivery_id: failed.then_some(delivery_id) };
        let made = make(tx, account_id, endpoint_id, &[again], age_max, PRIORITY).await?;
        made.first().copied().unwrap_or(delivery_id)
    };
    let delivery = deliveries::find(tx, account_id, id).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Redelivered::Delivery(Box::new(delivery)))
}

/// The newest delivery of an event to an endpoint that is pending.
async fn find_pending(
    conn: &mut PgConnection,
    account_id: Uuid,
    endpoint_id: Uuid,
    event_id: Uuid,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        // The offset keeps the innermost query to the index by event.
        "select d.id from (select * from deliveries where account_id = $1 and event_id = $2 offset 0) d
         where d.endpoint_id = $3 and d.status = 'pending' order by d.number desc limit 1",
    )
    .bind(account_id)
    .bind(event_id)
    .bind(endpoint_id)
    .fetch_optional(conn)
    .await
}

/// Makes the next attempt of a pending delivery due now, if it waits for its time, its job is dead, or its dead job was
/// discarded.
async fn bring_forward(
    tx: &mut Tx,
    account_id: Uuid,
    endpoint_id: Uuid,
    delivery_id: Uuid,
    job_id: Option<Uuid>,
) -> Result<(), EnqueueError> {
    let Some(job_id) = job_id else { return Ok(()) };
    let place = operate::Place {
        queue: Deliver::QUEUE,
        tenant: &account_id.to_string(),
        lane: &endpoint_id.to_string(),
    };
    let (mut brought, mut wake) = operate::bring_forward(tx, place, job_id).await?;
    if !brought {
        let (revived, of_revived) = operate::retry_dead(tx, operate::Dead::Ids(&[job_id])).await?;
        brought = revived > 0;
        wake.merge(of_revived);
    }
    if !brought && !operate::has_job(tx, place, job_id).await? {
        let jobs = enqueue(tx, account_id, endpoint_id, &[delivery_id], PRIORITY).await?;
        set_jobs(tx, account_id, jobs.iter()).await?;
        brought = true;
    }
    if brought {
        sqlx::query("update deliveries set next_attempt_at = now() where account_id = $1 and id = $2")
            .bind(account_id)
            .bind(delivery_id)
            .execute(&mut **tx)
            .await?;
        tx.wake(wake);
    }
    Ok(())
}

/// An event to be delivered again, or for the first time, to one endpoint.
#[derive(Debug, Clone)]
pub struct Again {
    /// The event.
    pub event_id: Uuid,
    /// Its type.
    pub kind: String,
    /// The delivery that is made again; a new one is made if there is none.
    pub delivery_id: Option<Uuid>,
}

/// Makes deliveries to one endpoint again, with their jobs, in the order given. One that is neither exhausted nor cancelled
/// by now, or is older than `age_max`, is left out. Returns those that were made.
pub async fn make(
    tx: &mut Tx,
    account_id: Uuid,
    endpoint_id: Uuid,
    wanted: &[Again],
    age_max: Duration,
    priority: i16,
) -> Result<Vec<Uuid>, EnqueueError> {
    let failed: Vec<Uuid> = wanted.iter().filter_map(|again| again.delivery_id).collect();
    let restarted = restart(tx, account_id, &failed, age_max).await?;
    let (mut made, mut new) = (Vec::with_capacity(wanted.len()), Vec::new());
    for Again { event_id, kind, delivery_id } in wanted {
        let Some(id) = delivery_id else {
            let (id, event_id, kind) = (new_id(), *event_id, kind.clone());
            new.push(NewDelivery { account_id, id, endpoint_id, event_id, kind, job_id: None });
            made.push(id);
            continue;
        };
        if restarted.contains(id) {
            made.push(*id);
        }
    }
    let of_jobs = enqueue(tx, account_id, endpoint_id, &made, priority).await?;
    for delivery in &mut new {
        delivery.job_id = of_jobs.get(&delivery.id).copied();
    }
    deliveries::create_again(tx, &new).await?;
    set_jobs(tx, account_id, of_jobs.iter().filter(|(id, _)| restarted.contains(id))).await?;
    Ok(made)
}

/// Enqueues a job for each delivery, in the order given. Returns which has which.
async fn enqueue(
    tx: &mut Tx,
    account_id: Uuid,
    endpoint_id: Uuid,
    deliveries: &[Uuid],
    priority: i16,
) -> Result<HashMap<Uuid, Uuid>, EnqueueError> {
    let (tenant, lane) = (account_id.to_string(), endpoint_id.to_string());
    let jobs: Vec<NewJob> = deliveries
        .iter()
        .map(|id| -> Result<NewJob, EnqueueError> {
            let job = NewJob::new(&Deliver { account_id, delivery_id: *id }, tenant.as_str())?;
            Ok(job.lane(lane.as_str()).priority(priority))
        })
        .collect::<Result<_, _>>()?;
    let enqueued = tx.enqueue(&jobs).await?;
    Ok(deliveries.iter().zip(&enqueued).filter_map(|(id, enqueued)| Some((*id, enqueued.id()?))).collect())
}

/// Notes which jobs deliveries that were made again have.
async fn set_jobs(
    conn: &mut PgConnection,
    account_id: Uuid,
    of_jobs: impl Iterator<Item = (&Uuid, &Uuid)>,
) -> Result<(), sqlx::Error> {
    let (ids, jobs): (Vec<Uuid>, Vec<Uuid>) = of_jobs.unzip();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update deliveries d set job_id = t.job_id from unnest($2::uuid[], $3::uuid[]) as t(id, job_id)
         where d.account_id = $1 and d.id = t.id",
    )
    .bind(account_id)
    .bind(ids)
    .bind(jobs)
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes exhausted and cancelled deliveries pending, with their retries ahead of them; the others stay as they are. Returns
/// those that it changed.
async fn restart(
    conn: &mut PgConnection,
    account_id: Uuid,
    ids: &[Uuid],
    age_max: Duration,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let restarted: Vec<Uuid> = sqlx::query_scalar(
        "update deliveries d set status = 'pending', again = true, retries_from = d.attempts, job_id = null,
            next_attempt_at = null, finished_at = null
         from unnest($2::uuid[]) as t(id)
         where d.account_id = $1 and d.id = t.id and d.status in ('exhausted', 'cancelled')
            and d.id >= uuid_v7_floor(now() - make_interval(secs => $3))
         returning d.id",
    )
    .bind(account_id)
    .bind(ids)
    .bind(age_max.as_secs_f64())
    .fetch_all(conn)
    .await?;
    Ok(restarted.into_iter().collect())
}
