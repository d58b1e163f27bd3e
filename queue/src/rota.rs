//! Whose turn it is: a claim serves the tenants in turn, and the lanes of each tenant in turn.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::claim::Row;

mod places;
mod shares;
mod slow;

use places::Stand;
pub use shares::{Claims, Room};
use shares::{Lane, Shares};

/// How many lanes one look at the table asks for at least, so that a process with few free slots need not look each time.
const WINDOW_MIN: usize = 100;
/// The most tenants whose place in their lanes is remembered; the others start anywhere.
const TENANTS_MAX: usize = 1000;
/// The most tenants whose weight is remembered for lanes that are expected.
const WEIGHTS_MAX: usize = 1000;
/// How many looks in a row may find only lanes that are closed or full, before the next wake or poll is waited for.
const FRUITLESS_MAX: u32 = 20;

/// A look that takes the database longer than this, and than this for each tenant and lane of it, walks over dead rows: somebody
/// holds an old snapshot, so that what was claimed cannot be removed from the index.
const SLOW: Duration = Duration::from_millis(40);
const SLOW_EACH: Duration = Duration::from_micros(300);
const TAKE: &str = "select *, extract(epoch from clock_timestamp() - rank)::float8 as after_rank_seconds
    from queue.take($1, $2, $3, $4, $5, $6, $7, $8)";

/// The turns of one queue in one process. What a look at the table found is used until it is used up, or until something
/// new may be there.
#[derive(Debug)]
pub struct Rota {
    /// From when on a look is slow.
    slow: Duration,
    slow_each: Duration,
    turns: VecDeque<Turn>,
    /// Whether there was a look, or another process told of one.
    looked: bool,
    /// Whether the last look saw every lane, so that those that were served can have another turn.
    whole: bool,
    /// Whether a lane was expected while not every lane is known.
    unseen: bool,
    /// The weights, other than 1, of tenants that were looked at.
    weights: HashMap<String, usize>,
    /// Looks in a row that found nothing open.
    fruitless: u32,
    /// The tenant that had its turn last, and the last lane of each.
    after_tenant: String,
    after_lanes: HashMap<String, String>,
    /// The tenant whose turn was cut short, and how much of it is left.
    left: Option<(String, usize)>,
    /// When a look was slow: not before this time there is another, and claims begin where the lanes stand.
    next_look: Option<Instant>,
    /// Until then, not before this time are lanes between the known ones looked for.
    next_beside: Option<Instant>,
    /// The lowest priority of the jobs that were claimed since the last look, and between the two before it.
    lowest: [Option<i16>; 2],
    /// The lanes that had nothing more to give, until the next look: those that were full, for they have room again some
    /// time, and all of them while looks are spared.
    resting: Vec<(String, usize, Lane)>,
}

/// A tenant with ready jobs, and its lanes in the order of their turns.
#[derive(Debug)]
struct Turn {
    tenant: String,
    weight: usize,
    lanes: VecDeque<Lane>,
}

/// A lane as the table has it.
#[derive(Debug, FromRow)]
struct Found {
    tenant: String,
    weight: i32,
    lane: String,
    guarded: bool,
    slow: bool,
    open: bool,
    head: DateTime<Utc>,
}

/// The same with what a look at the whole table tells besides.
#[derive(Debug, FromRow)]
struct Seen {
    #[sqlx(flatten)]
    found: Found,
    whole: bool,
    at: DateTime<Utc>,
    took_ms: f64,
}

impl Default for Rota {
    fn default() -> Self {
        Self::slow_after(SLOW, SLOW_EACH)
    }
}

impl Rota {
    /// A rota that spares its looks when one took longer than `slow`, and than `each` for each tenant and lane of it.
    pub fn slow_after(slow: Duration, each: Duration) -> Self {
        Self {
            slow,
            slow_each: each,
            turns: VecDeque::new(),
            looked: false,
            whole: false,
            unseen: false,
            weights: HashMap::new(),
            fruitless: 0,
            after_tenant: String::new(),
            after_lanes: HashMap::new(),
            left: None,
            next_look: None,
            next_beside: None,
            lowest: [None, None],
            resting: Vec::new(),
        }
    }

    /// Notes that a lane may have something to claim, because this tenant got a job there or one of its jobs ended, so that
    /// it need not be looked for. Other tenants whose jobs wait in the lane go before it. While not all lanes are known all
    /// are looked at instead (unless looks are spared): the unknown ones shall not wait behind it.
    pub fn expect(&mut self, tenant: &str, lane: &str) {
        if !self.whole && self.next_look.is_none() {
            self.unseen = true;
            return;
        }
        self.fruitless = 0;
        let mut own = None;
        for (of, weight, rested) in self.resting.extract_if(.., |(_, _, rests)| rests.name == lane) {
            // What came may be ahead of what was first.
            let rested = Lane { head: None, tail_at: None, ..rested };
            if of == tenant {
                own = Some((weight, rested));
            } else if let Some(turn) = self.turns.iter_mut().find(|turn| turn.tenant == of) {
                turn.lanes.push_back(rested);
            } else {
                self.turns.push_front(Turn { tenant: of, weight, lanes: [rested].into() });
            }
        }
        // Whether it has limits is not known; as one that has, it is shared with no other tenant in the same claim.
        let new = || (self.weights.get(tenant).copied().unwrap_or(1), Lane::new(lane, true, false));
        let (weight, own) = own.unwrap_or_else(new);
        let Some(turn) = self.turns.iter_mut().find(|turn| turn.tenant == tenant) else {
            self.turns.push_back(Turn { tenant: tenant.to_owned(), weight, lanes: [own].into() });
            return;
        };
        match turn.lanes.iter_mut().find(|known| known.name == lane) {
            Some(known) => (known.head, known.tail_at) = (None, None),
            None => turn.lanes.push_back(own),
        }
    }

    /// Whether the next claim is to look at the table, for what was expected, or found beside the known lanes, since this was
    /// asked last.
    pub fn wants_look(&mut self) -> bool {
        std::mem::take(&mut self.unseen)
    }

    /// Claims jobs of a queue under a lease, as many as there is room for. `look` says that there may be jobs in lanes that the last look
    /// did not see, or ahead of where it saw them begin. Fails with the SQLSTATE `QL001` when the lease has lapsed.
    pub async fn claim(
        &mut self,
        conn: &mut PgConnection,
        lease: Uuid,
        queue: &str,
        room: impl Into<Room>,
        look: bool,
    ) -> Result<Claims, sqlx::Error> {
        let room = room.into();
        let mut is_spared = self.next_look.is_some_and(|at| Instant::now() < at);
        if look {
            self.fruitless = 0;
        }
        if !is_spared && (look || self.turns.is_empty()) {
            is_spared = self.adopt(conn, queue).await?;
            if !is_spared {
                self.look(conn, queue, room).await?;
            }
        }
        if is_spared && look {
            self.wake_lanes();
            self.look_beside(conn, queue, room).await?;
        }
        let shares = self.share(room);
        let mut rows: Vec<Row> = Vec::new();
        if !shares.lanes.is_empty() {
            rows = sqlx::query_as(TAKE)
                .bind(lease)
                .bind(queue)
                .bind(&shares.tenants)
                .bind(&shares.lanes)
                .bind(&shares.budgets)
                .bind(&shares.from)
                .bind(i32::try_from(room.slow).unwrap_or(i32::MAX))
                .bind(i32::try_from(room.unit).unwrap_or(i32::MAX))
                .fetch_all(conn)
                .await?;
            self.settle(&shares, &rows);
        }
        let contended = rows.iter().any(|row| row.fate == "held by another");
        rows.retain(|row| row.fate == "claimed");
        rows.sort_unstable_by_key(|row| (row.rank, row.id));
        self.fruitless = if rows.is_empty() { self.fruitless + 1 } else { 0 };
        let unknown = self.unseen || (!self.whole && self.next_look.is_none());
        let more = (!self.turns.is_empty() || unknown) && self.fruitless < FRUITLESS_MAX;
        Ok(Claims { rows, more, contended })
    }

    /// Lets the lanes that rested have their turns again.
    fn wake_lanes(&mut self) {
        for (tenant, weight, lane) in std::mem::take(&mut self.resting) {
            self.add_lane(tenant, weight, lane);
        }
    }

    /// Gives a lane the last turn of its tenant, and the tenant the last of all if it has none.
    fn add_lane(&mut self, tenant: String, weight: usize, lane: Lane) {
        match self.turns.iter_mut().find(|turn| turn.tenant == tenant) {
            Some(turn) => turn.lanes.push_back(lane),
            None => self.turns.push_back(Turn { tenant, weight, lanes: [lane].into() }),
        }
    }

    /// How much further ahead than a job without priority one may be put, by those that were claimed of late.
    fn ahead(&self) -> TimeDelta {
        let lowest = self.lowest.iter().flatten().min().copied().unwrap_or_default();
        TimeDelta::minutes(-i64::from(lowest))
    }

    /// Reads which lanes have ready jobs, beginning after those that were served last. While looks are slow, lanes that have
    /// none stay known.
    async fn look(&mut self, conn: &mut PgConnection, queue: &str, room: Room) -> Result<(), sqlx::Error> {
        let was_slow = self.next_look.is_some();
        if was_slow {
            // Should this one take too long to be answered, the known lanes are gone on with.
            self.wake_lanes();
            self.spare_looks(conn, queue, slow::PAUSE_MAX).await?;
        }
        let window = if was_slow { slow::WINDOW } else { room.slots.max(WINDOW_MIN) };
        let (tenants, lanes): (Vec<&str>, Vec<&str>) =
            self.after_lanes.iter().map(|(tenant, lane)| (tenant.as_str(), lane.as_str())).unzip();
        let began = Instant::now();
        let seen: Vec<Seen> = sqlx::query_as("select * from queue.walk($1, $2, $3, $4, $5, $6)")
            .bind(queue)
            .bind(i32::try_from(window).unwrap_or(i32::MAX))
            .bind(&self.after_tenant)
            .bind(tenants)
            .bind(lanes)
            .bind(room.slow > 0)
            .fetch_all(&mut *conn)
            .await?;
        let known = std::mem::take(&mut self.turns);
        self.resting.clear();
        self.lowest = [None, self.lowest[0]];
        self.whole = seen.first().is_none_or(|seen| seen.whole);
        self.unseen = false;
        // A look that finds nothing does not tell how long it took the database.
        let took = seen.iter().map(|seen| seen.took_ms / 1000.0).reduce(f64::max);
        let took = took.unwrap_or(began.elapsed().as_secs_f64());
        for Seen { found, at, .. } in &seen {
            self.see(found, *at);
        }
        let walked = u32::try_from(seen.len() + self.turns.len()).unwrap_or(u32::MAX);
        let is_slow = took > self.slow.max(self.slow_each.saturating_mul(walked)).as_secs_f64();
        if is_slow {
            self.keep(known);
            // If the first slow one has not seen all lanes, the next one soon does.
            let seen_all = self.whole || was_slow;
            self.spare_looks(conn, queue, if seen_all { slow::pause(took) } else { slow::PAUSE_MIN }).await?;
        } else {
            self.next_look = None;
        }
        // The next look goes past what is closed: past the lanes of a tenant that has no open one among them, and past the
        // tenants when none has.
        let none_open = self.turns.iter().all(|turn| turn.lanes.is_empty());
        for Seen { found: seen, .. } in &seen {
            if self.turns.iter().any(|turn| turn.tenant == seen.tenant && turn.lanes.is_empty()) {
                self.pass_lane(&seen.tenant, &seen.lane);
            }
            if none_open {
                seen.tenant.clone_into(&mut self.after_tenant);
            }
        }
        self.turns.retain(|turn| !turn.lanes.is_empty());
        Ok(())
    }

    /// Gives a lane that a look has seen its turn, if it is open.
    fn see(&mut self, seen: &Found, at: DateTime<Utc>) {
        if self.turns.back().is_none_or(|turn| turn.tenant != seen.tenant) {
            let weight = usize::try_from(seen.weight).unwrap_or(1);
            if weight == 1 {
                self.weights.remove(&seen.tenant);
            } else if self.weights.len() < WEIGHTS_MAX {
                self.weights.insert(seen.tenant.clone(), weight);
            }
            self.turns.push_back(Turn { tenant: seen.tenant.clone(), weight, lanes: VecDeque::new() });
        }
        if seen.open
            && let Some(turn) = self.turns.back_mut()
        {
            let stands = Some(Stand { last: seen.head, now: at });
            let new = Lane::new(&seen.lane, seen.guarded, seen.slow);
            let tail_at = Some(Instant::now());
            turn.lanes.push_back(Lane { head: Some(seen.head), stands, tail_at, ..new });
        }
    }

    /// Notes the lane as the last one of its tenant that had its turn.
    fn pass_lane(&mut self, tenant: &str, lane: &str) {
        if self.after_lanes.len() >= TENANTS_MAX && !self.after_lanes.contains_key(tenant) {
            // Any of them: the oldest would be the one whose turn is next.
            let victim = rand::rng().random_range(0..self.after_lanes.len());
            let victim = self.after_lanes.keys().nth(victim).cloned();
            victim.map(|tenant| self.after_lanes.remove(&tenant));
        }
        lane.clone_into(self.after_lanes.entry(tenant.to_owned()).or_default());
    }

    /// Deals the slots out: one tenant after the other, as many at a time as its weight, each to its next lane. A
    /// turn that the slots cut short is gone on with in the next claim. Slow lanes for which there is no room rest.
    fn share(&mut self, room: Room) -> Shares {
        let mut shares = Shares::default();
        // A claim that failed was never settled: its shares mean nothing here.
        for lane in self.turns.iter_mut().flat_map(|turn| &mut turn.lanes) {
            lane.share = None;
        }
        // A guarded lane is judged once in a claim, so that only one tenant may have it.
        let mut guarded: HashMap<String, usize> = HashMap::new();
        let ahead = self.ahead();
        let (mut free, mut slow) = (room.slots, room.slow);
        let mut empty_turns = 0;
        while free > 0 && empty_turns < self.turns.len() {
            let Some(mut turn) = self.turns.pop_front() else { break };
            let left = self
                .left
                .take()
                .filter(|(tenant, _)| *tenant == turn.tenant)
                .map_or(turn.weight, |(_, left)| left);
            let mut dealt = 0;
            for _ in 0..turn.lanes.len().max(left) {
                if dealt == left.min(free) {
                    break;
                }
                let Some(mut lane) = turn.lanes.pop_front() else { break };
                if lane.slow && slow == 0 {
                    self.resting.push((turn.tenant.clone(), turn.weight, lane));
                    continue;
                }
                if let Some(index) = lane.share.or_else(|| shares.add(&turn.tenant, &lane, &mut guarded)) {
                    shares.budgets[index] += 1;
                    if lane.share.replace(index).is_none() {
                        shares.from[index] = if self.next_look.is_some() {
                            lane.stands.map(|stand| stand.begin(ahead, &mut lane.tail_at))
                        } else {
                            lane.head
                        };
                    }
                    dealt += 1;
                    slow -= usize::from(lane.slow);
                }
                turn.lanes.push_back(lane);
            }
            free -= dealt;
            if turn.lanes.is_empty() {
                continue;
            }
            empty_turns = if dealt == 0 { empty_turns + 1 } else { 0 };
            if 0 < dealt && dealt < left && free == 0 {
                self.left = Some((turn.tenant.clone(), left - dealt));
                self.turns.push_front(turn);
            } else {
                turn.tenant.clone_into(&mut self.after_tenant);
                self.turns.push_back(turn);
            }
        }
        for (tenant, lane) in shares.tenants.iter().zip(&shares.lanes) {
            self.pass_lane(tenant, lane);
        }
        shares
    }

    /// Takes out the lanes that gave less than they were asked for: they are empty, full, or in another claimer's hands.
    /// After a look that did not see all lanes, those that were served wait until the others were.
    fn settle(&mut self, shares: &Shares, rows: &[Row]) {
        let mut given: HashMap<(&str, &str), (i32, Stand)> = HashMap::new();
        // An ordered lane has no room until all that it gave has ended.
        let full: HashSet<&str> = rows
            .iter()
            .filter(|row| row.fate == "full" || row.ordered)
            .map(|row| row.lane.as_str())
            .collect();
        for row in rows.iter().filter(|row| row.fate != "held by another" && row.fate != "full") {
            let now = row.claimed_at();
            let (count, stand) =
                given.entry((&row.tenant, &row.lane)).or_insert((0, Stand { last: row.rank, now }));
            *count += 1;
            stand.last = row.rank.max(stand.last);
            self.lowest[0] = Some(self.lowest[0].map_or(row.priority, |lowest| lowest.min(row.priority)));
        }
        for turn in &mut self.turns {
            for _ in 0..turn.lanes.len() {
                let Some(mut lane) = turn.lanes.pop_front() else { break };
                let Some(index) = lane.share.take() else {
                    turn.lanes.push_back(lane);
                    continue;
                };
                let given = given.get(&(turn.tenant.as_str(), lane.name.as_str()));
                if let Some((_, stand)) = given {
                    lane.stands = Some(*stand);
                }
                let full = full.contains(lane.name.as_str());
                if (self.whole || self.next_look.is_some())
                    && !full
                    && given.is_some_and(|(count, _)| *count >= shares.budgets[index])
                {
                    turn.lanes.push_back(lane);
                } else if self.next_look.is_some() || full {
                    self.resting.push((turn.tenant.clone(), turn.weight, lane));
                }
            }
        }
        self.turns.retain(|turn| !turn.lanes.is_empty());
    }
}
