//! Turns while looks are slow: somebody holds an old snapshot, and every look walks over what has died since.
//!
//! The known lanes are claimed from where they stand, and only the gaps between them are looked into. One process looks at
//! all, now and then, and tells the others, also those that start.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use rand::Rng;
use sqlx::PgConnection;

use super::{
    Found, Room, Rota, Turn,
    places::{Places, Stand},
    shares::Lane,
};

/// How many lanes a look asks for meanwhile, so that all of them are known.
pub(super) const WINDOW: usize = 5000;
/// How long nobody looks at all after a look: so many times as long as it took, within these bounds.
const TIMES: f64 = 40.0;
pub(super) const PAUSE_MIN: Duration = Duration::from_secs(1);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long lanes between the known ones are not looked for again meanwhile: so many times as long as that took, and this at
/// least.
const BESIDE_TIMES: u32 = 20;
const BESIDE_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The pause after a look that took so many seconds.
pub(super) fn pause(took: f64) -> Duration {
    Duration::from_secs_f64((took * TIMES).clamp(PAUSE_MIN.as_secs_f64(), PAUSE_MAX.as_secs_f64()))
}

impl Rota {
    /// Takes over where the lanes stand from another process that has looked, if looks are slow. Says whether there was one.
    pub(super) async fn adopt(&mut self, conn: &mut PgConnection, queue: &str) -> Result<bool, sqlx::Error> {
        if std::mem::replace(&mut self.looked, true) && self.next_look.is_none() {
            return Ok(false);
        }
        let Some((places, valid)) = Places::read(conn, queue).await? else { return Ok(false) };
        self.wake_lanes();
        let known = self.known_names();
        for (tenant, weight, lane, stand) in places.iter() {
            if !known.contains(&(tenant.to_owned(), lane.to_owned())) {
                let new = Lane { stands: Some(stand), ..Lane::new(lane, true, false) };
                self.add_lane(tenant.to_owned(), weight, new);
            }
        }
        // Whoever comes first looks, and tells the others.
        self.next_look = Some(Instant::now() + valid.mul_f64(rand::rng().random_range(1.0..1.5)));
        Ok(true)
    }

    /// The lanes that have turns or rest, as (tenant, weight, lane).
    fn known(&self) -> impl Iterator<Item = (&str, usize, &Lane)> {
        let turns = self
            .turns
            .iter()
            .flat_map(|turn| turn.lanes.iter().map(|lane| (turn.tenant.as_str(), turn.weight, lane)));
        turns.chain(self.resting.iter().map(|(tenant, weight, lane)| (tenant.as_str(), *weight, lane)))
    }

    fn known_names(&self) -> HashSet<(String, String)> {
        self.known().map(|(tenant, _, lane)| (tenant.to_owned(), lane.name.clone())).collect()
    }

    /// Spares looks for a while, and tells the other processes where the lanes stand, so that they do the same.
    pub(super) async fn spare_looks(
        &mut self,
        conn: &mut PgConnection,
        queue: &str,
        pause: Duration,
    ) -> Result<(), sqlx::Error> {
        self.next_look = Some(Instant::now() + pause);
        let mut places = Places::new(self.ahead());
        for (tenant, weight, lane) in self.known() {
            if let Some(stand) = lane.stands {
                places.add(tenant, weight, &lane.name, stand);
            }
        }
        places.publish(conn, queue, pause).await
    }

    /// Looks for lanes beside the known ones, and passes by what has died in these.
    pub(super) async fn look_beside(
        &mut self,
        conn: &mut PgConnection,
        queue: &str,
        room: Room,
    ) -> Result<(), sqlx::Error> {
        if self.next_beside.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let began = Instant::now();
        let known = self.known().map(|(tenant, _, lane)| (tenant, lane.name.as_str()));
        let (tenants, lanes): (Vec<&str>, Vec<&str>) = known.unzip();
        let found: Vec<Found> = sqlx::query_as("select * from queue.walk_between($1, $2, $3, $4)")
            .bind(queue)
            .bind(tenants)
            .bind(lanes)
            .bind(room.slow > 0)
            .fetch_all(conn)
            .await?;
        self.unseen = found.iter().any(|found| found.open);
        for found in found.into_iter().filter(|found| found.open) {
            let new = Lane {
                stands: Some(Stand { last: found.head, now: found.head }),
                ..Lane::new(&found.lane, found.guarded, found.slow)
            };
            self.add_lane(found.tenant, usize::try_from(found.weight).unwrap_or(1), new);
        }
        // Where there were some there may be more.
        let pause = (began.elapsed() * BESIDE_TIMES).max(BESIDE_PAUSE_MIN);
        self.next_beside = (!self.unseen).then(|| Instant::now() + pause);
        Ok(())
    }

    /// Keeps lanes known in which a look has seen nothing.
    pub(super) fn keep(&mut self, known: VecDeque<Turn>) {
        let seen = self.known_names();
        for Turn { tenant, weight, lanes } in known {
            for lane in lanes {
                if lane.stands.is_some() && !seen.contains(&(tenant.clone(), lane.name.clone())) {
                    self.resting.push((tenant.clone(), weight, lane));
                }
            }
        }
    }
}
