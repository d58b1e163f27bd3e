-- The durable queue. A job lives in exactly one of four tables, and every move is one statement:
--
--     enqueue --> ready --> running --> (gone: done, cancelled)
--        |          ^  ^       |
--        |          |  +-------+  handed back, or rescued after a crash
--        v          |          |
--     deferred -----+ <--------+  retry, snooze
--                              |
--                              +--> dead
--
-- `run` counts starts and travels with the job through all four tables: (id, run) is the attempt token, and a
-- completion that names an older run is stale. `attempt` counts runs whose outcome was recorded, `crashes` counts
-- rescues; the two are never mixed. `rank` is the place in the lane: the time since when the job waits, later by a
-- minute for each point of priority, so that no priority waits for ever. Names are compared bytewise (collate "C") so
-- that a group's prefix is a range.
create schema if not exists queue;

create table queue.ready (
    shard smallint not null,
    id uuid not null,
    queue text collate "C" not null,
    tenant text collate "C" not null,
    lane text collate "C" not null,
    priority smallint not null,
    grp text collate "C",
    epoch bigint not null default 0,
    key text collate "C",
    attempt integer not null default 0,
    crashes smallint not null default 0,
    run integer not null default 0,
    max_attempts integer not null,
    payload text not null,
    trace text,
    created_at timestamptz not null default now(),
    rank timestamptz not null default now(),
    last_error text,
    -- The order of claiming: tenant, then lane, then the place in the lane. An index by id alone would cost every enqueue
    -- and every claim a write, and only an operator looks for one job.
    constraint ready_claim primary key (queue, tenant, lane, rank, id, shard)
);
create index ready_group on queue.ready (grp) where grp is not null;

create table queue.deferred (
    like queue.ready including defaults,
    run_at timestamptz not null,
    primary key (id, shard)
);
create index deferred_due on queue.deferred (run_at);
create index deferred_group on queue.deferred (grp) where grp is not null;

create table queue.running (
    like queue.ready including defaults,
    lease uuid not null,
    started_at timestamptz not null default now(),
    -- Whether the lane had a cap when the job was claimed: only such jobs are counted.
    capped boolean not null,
    -- Whether the lane was ordered when the job was claimed: it goes back to its own place there, whatever happens.
    ordered boolean not null default false,
    primary key (id, shard)
);
create index running_capped on queue.running (queue, lane, started_at) where capped;

create table queue.dead (
    like queue.ready including defaults,
    reason text not null,
    died_at timestamptz not null default now(),
    primary key (id, shard),
    constraint dead_reason check (reason in ('exhausted', 'crashed', 'refused', 'undecodable'))
);
create index dead_queue on queue.dead (queue, died_at);
create index dead_group on queue.dead (grp) where grp is not null;

-- Unique keys of jobs that are not finished; written and removed in the job's own statement.
create table queue.keys (
    queue text collate "C" not null,
    key text collate "C" not null,
    job_id uuid not null,
    primary key (queue, key)
);

-- A lane has a row only when something is set for it. `running` jobs are counted, never kept as a number. The row of the
-- lane '' pauses the whole queue; no job is in that lane.
create table queue.lanes (
    queue text collate "C" not null,
    lane text collate "C" not null,
    cap integer,
    paused boolean not null default false,
    closed_until timestamptz,
    reason text,
    per_second double precision,
    next_at timestamptz not null default '-infinity',
    -- Its jobs run one after the other in the order of their places, a few of them claimed at once by one process.
    ordered boolean not null default false,
    -- Its jobs take long: those of all such lanes get at most half of a process's slots.
    slow boolean not null default false,
    -- Whether a claim has to judge the lane under its row's lock.
    guarded boolean not null generated always as (cap is not null or per_second is not null or ordered or slow) stored,
    -- No job of the lane that still runs, and is counted, started before.
    counted_from timestamptz not null default '-infinity',
    updated_at timestamptz not null default now(),
    primary key (queue, lane),
    constraint lanes_cap check (cap is null or cap between 0 and 100000),
    constraint lanes_rate check (per_second is null or per_second > 0)
);

-- While looks at `ready` are slow: where the lanes stood at one of them, so that not every process has to look. Before its
-- place a lane had nothing. Valid until the next look is due.
create table queue.places (
    queue text collate "C" not null,
    at timestamptz not null default clock_timestamp(),
    until timestamptz not null,
    tenants text[] not null,
    weights integer[] not null,
    lanes text[] not null,
    places timestamptz[] not null,
    primary key (queue, at)
);

-- How much of the slots a tenant gets beside the others; 1 for those without a row.
create table queue.tenants (
    tenant text collate "C" primary key,
    weight integer not null,
    constraint tenants_weight check (weight between 1 and 100)
);

-- A group is a path such as `project/task`. Its row exists once something was done to the prefix, and goes when nothing
-- is left that it governs. Epochs come from one sequence, so that a row that is made anew is later than it ever was; no job
-- remembers it from before, for then it would not have gone.
create sequence queue.epochs;
create table queue.groups (
    prefix text collate "C" primary key,
    epoch bigint not null default 0,
    held boolean not null default false,
    released_at timestamptz,
    updated_at timestamptz not null default now()
);
create index groups_released on queue.groups (released_at) where released_at is not null;

-- One row per process start. All times are the database's. `steady_since` is when the unbroken row of beats began.
create table queue.leases (
    id uuid primary key,
    name text not null,
    -- The kinds of jobs that it claims.
    queues text[] not null default '{}',
    steady_since timestamptz not null default clock_timestamp(),
    beat_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    -- Which process of which machine it is, so that others there can see that it died; and the server process of its beats.
    machine text,
    pid integer,
    started bigint,
    backend integer
);

-- One row per process that died of late: whether a job is to blame for the death of its processes is judged by those
-- that died without it.
create table queue.deaths (
    lease uuid primary key,
    died_at timestamptz not null default clock_timestamp(),
    -- The beats of its lease, which still tell that the database took them.
    steady_since timestamptz not null,
    beat_at timestamptz not null
);

-- One row per periodic job; `last_tick` moves in the transaction that enqueues, so a tick runs once over all replicas.
create table queue.schedules (
    name text primary key,
    expression text not null,
    last_tick timestamptz not null,
    updated_at timestamptz not null default now()
);

-- These tables empty and fill all the time: vacuum by change, not by share, and leave room for in-place updates.
alter table queue.ready set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
alter table queue.running set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
alter table queue.deferred set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
alter table queue.keys set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
alter table queue.leases set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
