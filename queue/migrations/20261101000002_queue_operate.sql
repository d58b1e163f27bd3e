-- What operators look at and do.

-- The depth of each queue as it was counted last. Counting costs the more the more there is, so it is done by one
-- process for all, every ten seconds and for at most a fiftieth of the time.
create table queue.depths (
    queue text collate "C" primary key,
    ready bigint not null,
    -- Of the ready ones: in a lane at its cap or rate, in one that is closed for a while, in one that is paused.
    throttled bigint not null,
    closed bigint not null,
    paused bigint not null,
    running bigint not null,
    timers bigint not null,
    held bigint not null,
    dead bigint not null,
    -- The age of the oldest ready job: in an open lane, in those kinds of lanes, and in any.
    oldest_open_seconds double precision,
    oldest_throttled_seconds double precision,
    oldest_closed_seconds double precision,
    oldest_paused_seconds double precision,
    oldest_seconds double precision,
    -- Whether a live process claims jobs of this kind.
    claimed boolean not null
);
create table queue.counted (
    single boolean primary key default true check (single),
    at timestamptz not null default '-infinity',
    took interval not null default '0'
);
insert into queue.counted default values;

-- Whether it is time to count anew and nobody else does. Committed before the counting, so that a count that fails is not
-- tried again at once.
create function queue.may_count_depths() returns boolean language plpgsql as $$
begin
    perform 1 from queue.counted
    where at < clock_timestamp() - greatest(interval '10 seconds', took * 50) for update skip locked;
    if found then
        update queue.counted set at = clock_timestamp(), took = interval '5 seconds';
    end if;
    return found;
end
$$;

-- Counts.
create function queue.count_depths() returns void
language plpgsql as $$
declare
    v_began timestamptz := clock_timestamp();
begin
    delete from queue.depths;
    insert into queue.depths
    with lanes as (
        select r.queue, r.lane, count(*) as ready, min(r.rank - r.priority * interval '1 minute') as oldest
        from queue.ready r group by r.queue, r.lane
    ), waiting as (
        select w.*, case
            when l.paused or a.paused then 'paused'
            when l.closed_until > now() then 'closed'
            when l.next_at > now() or l.cap <= (
                select count(*) from queue.running r where r.queue = w.queue and r.lane = w.lane and r.capped) then 'throttled'
            else 'open' end as state
        from lanes w
        left join queue.lanes l on l.queue = w.queue and l.lane = w.lane
        left join queue.lanes a on a.queue = w.queue and a.lane = ''
    ), sums as (
        select queue, sum(ready) as ready, sum(ready) filter (where state = 'throttled') as throttled,
            sum(ready) filter (where state = 'closed') as closed, sum(ready) filter (where state = 'paused') as paused,
            min(oldest) filter (where state = 'open') as oldest_open, min(oldest) filter (where state = 'throttled') as oldest_throttled,
            min(oldest) filter (where state = 'closed') as oldest_closed, min(oldest) filter (where state = 'paused') as oldest_paused,
            min(oldest) as oldest,
            0 as running, 0 as timers, 0 as held, 0 as dead
        from waiting group by queue
        union all
        select queue, 0, 0, 0, 0, null, null, null, null, null, count(*), 0, 0, 0 from queue.running group by queue
        union all
        select queue, 0, 0, 0, 0, null, null, null, null, null, 0, count(*) filter (where run_at < 'infinity'), count(*) filter (where run_at = 'infinity'), 0
        from queue.deferred group by queue
        union all
        select queue, 0, 0, 0, 0, null, null, null, null, null, 0, 0, 0, count(*) from queue.dead group by queue
        union all
        select unnest(l.queues), 0, 0, 0, 0, null, null, null, null, null, 0, 0, 0, 0 from queue.leases l where l.expires_at > now()
    )
    select queue, coalesce(sum(ready), 0), coalesce(sum(throttled), 0), coalesce(sum(closed), 0), coalesce(sum(paused), 0),
        sum(running), sum(timers), sum(held), sum(dead),
        extract(epoch from now() - min(oldest_open)), extract(epoch from now() - min(oldest_throttled)),
        extract(epoch from now() - min(oldest_closed)), extract(epoch from now() - min(oldest_paused)),
        extract(epoch from now() - min(oldest)),
        exists (select 1 from queue.leases l where l.expires_at > now() and s.queue = any (l.queues))
    from sums s group by queue;
    update queue.counted set took = clock_timestamp() - v_began;
end
$$;

-- One job, wherever it is.
create function queue.find_job(p_id uuid)
returns table (id uuid, queue text, state text, tenant text, lane text, grp text, key text, priority smallint, attempt integer,
    crashes smallint, run integer, max_attempts integer, payload text, trace text, last_error text, created_at timestamptz,
    due_at timestamptz, reason text)
language sql stable as $$
    select id, queue, 'ready', tenant, lane, grp, key, priority, attempt, crashes, run, max_attempts, payload, trace,
        last_error, created_at, rank - priority * interval '1 minute', null from queue.ready where id = p_id
    union all
    select id, queue, case when run_at = 'infinity' then 'held' else 'timer' end, tenant, lane, grp, key, priority, attempt,
        crashes, run, max_attempts, payload, trace, last_error, created_at, nullif(run_at, 'infinity'), null
    from queue.deferred where id = p_id
    union all
    select id, queue, 'running', tenant, lane, grp, key, priority, attempt, crashes, run, max_attempts, payload, trace,
        last_error, created_at, started_at, null from queue.running where id = p_id
    union all
    select id, queue, 'dead', tenant, lane, grp, key, priority, attempt, crashes, run, max_attempts, payload, trace,
        last_error, created_at, died_at, reason from queue.dead where id = p_id
$$;

-- Makes dead jobs ready again, with all their attempts ahead of them: those that are named, or all of a queue, at most
-- `p_limit`. A job whose key another one has by now stays dead. Their groups' cancels since are forgiven: somebody asks
-- for these very jobs. Returns the queues, one for each job.
create function queue.retry_dead(p_ids uuid[], p_queue text, p_limit integer) returns setof text
language plpgsql set enable_seqscan = off set enable_nestloop = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    return query
    with chosen as (
        -- Each way by its own index.
        select d.ctid, d.id, d.queue, d.key from queue.dead d
        where d.ctid = any (array(
            (select i.ctid from queue.dead i where p_ids is not null and i.id = any (p_ids) limit p_limit)
            union all
            (select q.ctid from queue.dead q where p_ids is null and q.queue = p_queue order by q.died_at limit p_limit)))
        for update skip locked
    ), keyed as (
        insert into queue.keys (queue, key, job_id)
        select c.queue, c.key, c.id from chosen c where c.key is not null order by c.queue, c.key
        on conflict do nothing returning job_id
    ), taken as (
        delete from queue.dead where ctid = any (array(
            select c.ctid from chosen c where c.key is null or c.id in (select job_id from keyed)))
        returning *
    ), judged as (
        select t.*, g.epoch as present, g.held from taken t cross join lateral queue.group_of(t.grp) g
    ), parked as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, run, max_attempts, payload, trace,
            created_at, rank, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, present, key, run, max_attempts, payload, trace,
            created_at, queue.rank_of(now(), priority), last_error, 'infinity'
        from judged where held
    ), moved as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, run, max_attempts, payload, trace,
            created_at, rank, last_error)
        select shard, id, queue, tenant, lane, priority, grp, present, key, run, max_attempts, payload, trace,
            created_at, queue.rank_of(now(), priority), last_error
        from judged where not held
    )
    select queue from judged;
end
$$;

-- Whether there is a job of that id: running, dead, waiting for its time, or ready in that lane, which is read to its end if it
-- is not.
create function queue.has_job(p_queue text, p_tenant text, p_lane text, p_id uuid) returns boolean language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
    return exists (select from queue.running j where j.id = p_id) or exists (select from queue.deferred j where j.id = p_id)
        or exists (select from queue.dead j where j.id = p_id)
        or exists (select from queue.ready j where j.queue = p_queue and j.tenant = p_tenant and j.lane = p_lane and j.id = p_id);
end
$$;
