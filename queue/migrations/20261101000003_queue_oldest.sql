-- What waits longest, told by what it waits for: cheap enough to ask every few seconds however much there is, since it looks at
-- the heads of lanes only.

-- Timers of jobs that have run before, oldest first: retries. A job that was enqueued for later and has not run is no part of it.
create index deferred_again on queue.deferred (queue, created_at) where run > 0;

-- For each state how many lanes of a queue are in it and since when the oldest of their first jobs exists: `ready` (an open lane,
-- jobs that have not run), `again` (jobs that have run before, in an open lane or as timers), `throttled` (at the lane's cap or
-- rate, or behind what runs in an ordered one), `closed` for a while with its reason, `paused`. At most `p_lanes` lanes and
-- ten jobs of each are looked at.
create function queue.oldest_waiting(p_queue text, p_lanes integer)
returns table (state text, reason text, lanes bigint, oldest timestamptz)
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_material = off set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    with recursive lane as (
        (select r.tenant, r.lane, 1 as n from queue.ready r where r.queue = p_queue order by r.tenant, r.lane limit 1)
        union all
        select x.tenant, x.lane, l.n + 1
        from lane l, lateral (
            select either.tenant, either.lane from (
                (select r.tenant, r.lane from queue.ready r
                 where r.queue = p_queue and r.tenant = l.tenant and r.lane > l.lane order by r.lane limit 1)
                union all
                (select r.tenant, r.lane from queue.ready r
                 where r.queue = p_queue and r.tenant > l.tenant order by r.tenant, r.lane limit 1)) either
            order by either.tenant limit 1) x
        where l.n < p_lanes
    ), judged as materialized (
        select h.fresh, h.again, s.reason, case
            when s.paused or a.paused then 'paused'
            when s.closed_until > now() then 'closed'
            when s.next_at > now() or running.jobs >= case when s.ordered then least(s.cap, 1) else s.cap end then 'throttled'
            else 'open' end as state
        from lane l
        cross join lateral (
            select min(f.created_at) filter (where f.run = 0) as fresh, min(f.created_at) filter (where f.run > 0) as again
            from (select r.created_at, r.run from queue.ready r
                where r.queue = p_queue and r.tenant = l.tenant and r.lane = l.lane order by r.rank limit 10) f) h
        left join lateral (select s.* from queue.lanes s where s.queue = p_queue and s.lane = l.lane limit 1) s on true
        left join lateral (select s.paused from queue.lanes s where s.queue = p_queue and s.lane = '' limit 1) a on true
        cross join lateral (
            select count(*) as jobs from (
                select from queue.running r
                where r.queue = p_queue and r.lane = l.lane and r.capped and r.started_at >= s.counted_from
                limit s.cap + 1) c) running
    )
    select 'ready', null, count(*), min(j.fresh) from judged j where j.state = 'open' and j.fresh is not null
    union all
    select 'again', null, count(*), least(min(j.again), (
        select d.created_at from queue.deferred d where d.queue = p_queue and d.run > 0 order by d.created_at limit 1))
    from judged j where j.state = 'open' and j.again is not null
    union all
    select j.state, case when j.state = 'closed' then j.reason end, count(*), min(least(j.fresh, j.again))
    from judged j where j.state <> 'open' group by 1, 2;
end
$$;
