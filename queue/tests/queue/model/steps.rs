//! The operations one by one, each on the database and on the model.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use proptest::sample::Index;
use queue::{
    Rota, groups, lanes,
    operate::{Dead, discard_dead, retry_dead},
};
use uuid::Uuid;

use super::{
    job::{Micros, Place, When},
    ops::{Completion, Ending},
    sql,
    state::{Lease, Token},
    world::{World, pick},
};

/// 2001: when the first timer is due.
const START: Micros = 978_307_200_000_000;

impl World {
    pub async fn claim(&mut self, process: usize, limit: usize) -> Result<()> {
        let lease = match self.processes[process] {
            Some(lease) => lease,
            None => self.beat(process).await?,
        };
        let (mut claimed, mut more, mut refused) = (Vec::new(), true, false);
        let mut rota = Rota::slow_after(Duration::MAX, Duration::ZERO);
        // As the claimer does: one look, and on for as long as there may be more.
        let mut look = true;
        while claimed.len() < limit && more && !refused {
            match rota.claim(&mut self.conn, lease, sql::QUEUE, limit - claimed.len(), look).await {
                Ok(claims) => {
                    more = claims.may_have_more();
                    claimed
                        .extend(claims.iter().filter_map(|(_, _, number)| self.numbers.get(number)).copied());
                }
                Err(error) => {
                    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
                    ensure!(code.as_deref() == Some("QL001"), "{error}");
                    refused = true;
                }
            }
            look = false;
        }
        if self.model.leases[&lease] != Lease::Held {
            ensure!(claimed.is_empty(), "claimed without a lease: {claimed:?}");
            return Ok(());
        }
        ensure!(!refused, "the lease holds");
        let (rows, ..) = sql::tables(&mut self.conn).await?;
        self.model.claim(lease, limit, &claimed, &rows)
    }

    async fn beat(&mut self, process: usize) -> Result<Uuid> {
        self.number += 1;
        let lease = Uuid::from_u128(self.number.into());
        sqlx::query(
            "insert into queue.leases (id, name, expires_at) values ($1, 'hand', now() + interval '1 hour')",
        )
        .bind(lease)
        .execute(&mut *self.conn)
        .await?;
        self.model.leases.insert(lease, Lease::Held);
        self.processes[process] = Some(lease);
        Ok(lease)
    }

    pub async fn set_lease(&mut self, process: usize, state: Lease) -> Result<()> {
        let Some(lease) = self.processes[process] else { return Ok(()) };
        if !self.model.leases.contains_key(&lease) || self.model.leases[&lease] == Lease::Lost {
            self.processes[process] = None;
            return Ok(());
        }
        let sql = match state {
            Lease::Held => {
                "update queue.leases set beat_at = now(), expires_at = now() + interval '1 hour' where id = $1"
            }
            Lease::Lapsed => "update queue.leases set expires_at = now() - interval '1 second' where id = $1",
            Lease::Lost => "delete from queue.leases where id = $1",
        };
        sqlx::query(sql).bind(lease).execute(&mut *self.conn).await?;
        self.model.leases.insert(lease, state);
        Ok(())
    }

    pub async fn rescue(&mut self, orphans: bool) -> Result<()> {
        let counts = sql::rescue(&mut self.conn, orphans).await?;
        let expected = self.model.rescue(orphans);
        ensure!(counts == expected, "rescued and died: {counts:?} instead of {expected:?}");
        for process in &mut self.processes {
            if process.is_some_and(|lease| !self.model.leases.contains_key(&lease)) {
                *process = None;
            }
        }
        Ok(())
    }

    /// Completes in one statement; at most one run of each job, as its process would.
    pub async fn complete(&mut self, completions: &[Completion]) -> Result<()> {
        let current = self.current();
        let mut seen = BTreeSet::new();
        let chosen: Vec<(Token, Ending)> = completions
            .iter()
            .filter_map(|completion| {
                let from = if completion.any { &self.model.tokens } else { &current };
                pick(completion.token, from).map(|token| (token.clone(), completion.outcome))
            })
            .filter(|(token, _)| seen.insert(token.id))
            .collect();
        self.record(&chosen).await
    }

    pub async fn record(&mut self, endings: &[(Token, Ending)]) -> Result<()> {
        let accepted = sql::complete(&mut self.conn, endings).await?;
        for (token, ending) in endings {
            let expected = self.model.complete(token, *ending, sql::ERROR);
            let was = accepted.contains(&(token.id, token.run));
            ensure!(was == expected, "accepted {was} instead of {expected}: {token:?} {ending:?}");
        }
        Ok(())
    }

    pub async fn due(&mut self, index: Index) -> Result<()> {
        let timers: Vec<Uuid> =
            self.model.jobs.values().filter(|job| job.is_timer()).map(|job| job.id).collect();
        match pick(index, &timers) {
            Some(id) => self.set_due(*id).await,
            None => Ok(()),
        }
    }

    /// Each timer in a second of its own, so that their order is known.
    pub async fn set_due(&mut self, id: Uuid) -> Result<()> {
        self.tick += 1_000_000;
        let at = START + self.tick;
        sql::set_due(&mut self.conn, id, at).await?;
        if let Some(job) = self.model.jobs.get_mut(&id) {
            job.place = Place::Timer { at: When::At(at) };
        }
        Ok(())
    }

    pub async fn promote(&mut self, limit: usize) -> Result<()> {
        let promoted: i32 = sqlx::query_scalar("select promoted from queue.promote($1, null)")
            .bind(i32::try_from(limit)?)
            .fetch_one(&mut *self.conn)
            .await?;
        let expected = self.model.promote(limit);
        ensure!(usize::try_from(promoted)? == expected, "promoted {promoted} instead of {expected}");
        Ok(())
    }

    /// Some dead jobs, or all; not those whose key is in the hands of an open transaction, for which it would wait.
    pub async fn retry_dead(&mut self, indexes: Option<&[Index]>) -> Result<()> {
        let dead = self.dead();
        let free =
            |id: &Uuid| !self.model.jobs[id].key.is_some_and(|key| self.model.is_key_pending(key, None));
        let chosen: BTreeSet<Uuid> = match indexes {
            None => dead.iter().copied().filter(free).collect(),
            Some(indexes) => indexes.iter().filter_map(|i| pick(*i, &dead)).copied().filter(free).collect(),
        };
        let ids: Vec<Uuid> = chosen.iter().copied().collect();
        let dead =
            if chosen.len() == dead.len() { Dead::Queue(sql::QUEUE, u32::MAX) } else { Dead::Ids(&ids) };
        let (retried, _) = retry_dead(&mut self.conn, dead).await?;
        let expected = self.model.retry_dead(&chosen);
        ensure!(usize::try_from(retried)? == expected, "retried {retried} instead of {expected}");
        Ok(())
    }

    pub async fn discard(&mut self, index: Index) -> Result<()> {
        let dead = self.dead();
        let Some(id) = pick(index, &dead) else { return Ok(()) };
        let discarded = discard_dead(&mut self.conn, Dead::Ids(&[*id])).await?;
        self.model.jobs.remove(id);
        ensure!(discarded == 1, "discarded {discarded}");
        Ok(())
    }

    fn dead(&self) -> Vec<Uuid> {
        self.model.jobs.values().filter(|job| job.is_dead()).map(|job| job.id).collect()
    }

    pub async fn cancel(&mut self, prefixes: &[&'static str]) -> Result<()> {
        let (removed, _) = groups::cancel_many(&mut self.conn, prefixes).await?;
        let expected = self.model.cancel(prefixes);
        ensure!(removed == expected, "removed {removed} instead of {expected}");
        Ok(())
    }

    pub async fn hold(&mut self, prefix: &'static str) -> Result<()> {
        groups::hold(&mut self.conn, prefix).await?;
        self.model.hold(prefix);
        Ok(())
    }

    pub async fn release(&mut self, prefix: &'static str) -> Result<()> {
        let _ = groups::release(&mut self.conn, prefix).await?;
        self.model.release(prefix);
        Ok(())
    }

    pub async fn unpark(&mut self) -> Result<()> {
        sqlx::query("select queue.unpark_released()").execute(&mut *self.conn).await?;
        self.model.unpark_released();
        Ok(())
    }

    pub async fn pause(&mut self, lane: &'static str, paused: bool) -> Result<()> {
        let _ = lanes::pause(&mut self.conn, sql::QUEUE, lane, paused).await?;
        if paused {
            self.model.paused.insert(lane)
        } else {
            self.model.paused.remove(lane)
        };
        Ok(())
    }

    pub async fn cap(&mut self, lane: &'static str, cap: Option<i32>) -> Result<()> {
        let limits = lanes::Limits { cap, per_second: None };
        lanes::limit(&mut self.conn, sql::QUEUE, lane, limits).await?;
        self.model.cap(lane, cap);
        Ok(())
    }
}
