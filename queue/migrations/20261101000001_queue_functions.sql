-- The hot statements as functions: one round trip each, with plans that hold whatever the statistics say: a queue is
-- empty when statistics are taken and full when they are used, and on a table that is thought to be empty the planner
-- sees no harm in reading all of it once for each row of a batch. So nothing is left to it. A queue's table is never
-- joined: it is read through an index by a lateral subquery with a limit, and its rows are deleted by an array of their
-- places (ctid = any). What is in memory is joined by hash; the planner may loop only where there is no other way, which
-- is the lateral lookup.

-- 'a/b/c' is governed by the groups 'a', 'a/b' and 'a/b/c'. A path has at most four names; a prefix that ends with '/'
-- is nobody's. These two are inlined by the planner, which is why they are plain expressions.
create function queue.prefixes(path text) returns text[] language sql immutable parallel safe as $$
    select array[path, split_part(path, '/', 1), split_part(path, '/', 1) || '/' || split_part(path, '/', 2),
        split_part(path, '/', 1) || '/' || split_part(path, '/', 2) || '/' || split_part(path, '/', 3)]
$$;

-- Epochs only rise, so their sum over a path rises whenever any prefix of it is cancelled. It falls when one is forgotten, which
-- no job must survive that carries it.
create function queue.group_of(path text) returns table (epoch bigint, held boolean) language sql stable parallel safe as $$
    select coalesce(sum(g.epoch), 0)::bigint, coalesce(bool_or(g.held), false)
    from queue.groups g where path is not null and g.prefix = any (queue.prefixes(path))
$$;

-- The place in its lane of a job that is ready from `p_at` on.
create function queue.rank_of(p_at timestamptz, p_priority smallint) returns timestamptz language sql stable as $$
    select p_at + p_priority * interval '1 minute'
$$;

-- Enqueues jobs and says what became of each, by its number in the arrays: added, duplicate or cancelled. Keys are
-- inserted in sorted order, so that two bulk enqueues over the same keys wait for each other in one direction only. A
-- job whose cause (the group and epoch of the job that makes it) was cancelled is not enqueued; what is due in a held
-- group is parked.
create function queue.enqueue(p_ids uuid[], p_shards smallint[], p_queues text[], p_tenants text[], p_lanes text[],
    p_priorities smallint[], p_grps text[], p_causes text[], p_cause_epochs bigint[], p_keys text[], p_max_attempts integer[],
    p_payloads text[], p_traces text[], p_run_ats timestamptz[], p_delays bigint[])
returns table (n bigint, fate text)
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    -- A group that has a job to come is not forgotten; one that has changed of late is not anyway.
    perform from queue.groups g
    where g.prefix = any (array(select distinct unnest(queue.prefixes(p)) from unnest(p_grps) p))
        and g.updated_at < now() - interval '12 hours' for key share;
    -- In plpgsql its plan is kept; as an SQL function it would be planned anew by each call.
    return query
    with input as materialized (
        select t.*, g.epoch, g.held, t.cause is not null and (select c.epoch from queue.group_of(t.cause) c) > t.cause_epoch as cancelled,
            coalesce(t.run_at, now() + make_interval(secs => t.delay / 1000.0)) as due
        from unnest(p_ids, p_shards, p_queues, p_tenants, p_lanes, p_priorities, p_grps, p_causes, p_cause_epochs, p_keys,
            p_max_attempts, p_payloads, p_traces, p_run_ats, p_delays)
            with ordinality as t(id, shard, queue, tenant, lane, priority, grp, cause, cause_epoch, key, max_attempts, payload,
                trace, run_at, delay, n)
        cross join lateral queue.group_of(t.grp) g
    ), keyed as (
        insert into queue.keys (queue, key, job_id)
        select queue, key, id from input where key is not null and not cancelled order by queue, key
        on conflict do nothing returning job_id
    ), judged as materialized (
        select i.*, not i.cancelled and (i.key is null or i.id in (select job_id from keyed)) as accepted from input i
    ), later as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, max_attempts, payload, trace, rank, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, max_attempts, payload, trace,
            queue.rank_of(clock_timestamp(), priority), case when due > now() then due else 'infinity' end
        from judged where accepted and (due > now() or held)
    ), soon as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, max_attempts, payload, trace, rank)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, max_attempts, payload, trace,
            queue.rank_of(clock_timestamp(), priority)
        from judged where accepted and (due is null or due <= now()) and not held
    )
    select n, case when accepted then 'added' when cancelled then 'cancelled' else 'duplicate' end from judged;
end
$$;

-- The same for jobs that are due at once and have neither key nor cause: all of them are added. The epochs of their groups
-- are looked up only if one of `p_prefixes`, which are the groups and those above them in order, has a row; whether there is
-- one at all from the first to the last is asked before. False, and nothing done, if one is held.
create function queue.enqueue_plain(p_prefixes text[], p_ids uuid[], p_shards smallint[], p_queues text[], p_tenants text[],
    p_lanes text[], p_priorities smallint[], p_grps text[], p_max_attempts integer[], p_payloads text[], p_traces text[])
returns boolean
language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
declare
    -- Null if none has a row.
    v_held boolean;
begin
    if exists (select 1 from queue.groups g where g.prefix between p_prefixes[1] and p_prefixes[cardinality(p_prefixes)]) then
        -- A group that has a job to come is not forgotten; one that has changed of late is not anyway.
        perform from queue.groups g where g.prefix = any (p_prefixes) and g.updated_at < now() - interval '12 hours' for key share;
        v_held := (select bool_or(g.held) from queue.groups g where g.prefix = any (p_prefixes));
    end if;
    if v_held then
        return false;
    end if;
    insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, max_attempts, payload, trace, rank)
    select shard, id, queue, tenant, lane, priority, grp,
        case when v_held is not null then (select g.epoch from queue.group_of(grp) g) else 0 end,
        max_attempts, payload, trace, queue.rank_of(clock_timestamp(), priority)
    from unnest(p_ids, p_shards, p_queues, p_tenants, p_lanes, p_priorities, p_grps, p_max_attempts, p_payloads, p_traces)
        as t(id, shard, queue, tenant, lane, priority, grp, max_attempts, payload, trace);
    return true;
end
$$;

-- Up to `p_tenants` tenants with ready jobs, in turn after `p_after`, by a loose index scan that wraps around once.
create function queue.next_tenants(p_queue text, p_after text, p_tenants integer) returns table (tenant text, n bigint)
language sql stable as $$
    with recursive later as (
        (select r.tenant, 1::bigint as n from queue.ready r where r.queue = p_queue and r.tenant > p_after order by r.tenant limit 1)
        union all
        select x.tenant, later.n + 1 from later, lateral (
            select r.tenant from queue.ready r where r.queue = p_queue and r.tenant > later.tenant order by r.tenant limit 1) x
        where later.n < p_tenants
    ), first as (
        (select r.tenant, p_tenants + 1::bigint as n from queue.ready r
         where r.queue = p_queue and r.tenant <= p_after order by r.tenant limit 1)
        union all
        select x.tenant, first.n + 1 from first, lateral (
            select r.tenant from queue.ready r
            where r.queue = p_queue and r.tenant > first.tenant and r.tenant <= p_after order by r.tenant limit 1) x
        where first.n < 2 * p_tenants
    )
    (select * from later) union all (select * from first) limit p_tenants
$$;

-- Whether jobs of a lane may start now, as far as one can tell without a lock; those of a slow one if `p_slow`.
create function queue.lane_state(p_queue text, p_lane text, p_slow boolean) returns table (guarded boolean, slow boolean, open boolean)
language sql stable as $$
    select coalesce(bool_or(l.guarded), false), coalesce(bool_or(l.slow), false),
        coalesce(bool_and(not l.paused and (l.closed_until is null or l.closed_until <= now()) and (l.per_second is null or l.next_at <= now())
            and (l.cap is null or l.cap > 0) and (p_slow or not l.slow)), true)
    from queue.lanes l where l.queue = p_queue and l.lane = p_lane
$$;

-- The same over one tenant's lanes, with the place of the first job of each, until `p_open` open ones were found or
-- `p_look` lanes were looked at.
create function queue.next_lanes(p_queue text, p_tenant text, p_after text, p_open integer, p_look integer, p_slow boolean)
returns table (lane text, head timestamptz, guarded boolean, slow boolean, open boolean, n bigint)
language sql stable as $$
    with recursive later as (
        select x.lane, x.rank, s.guarded, s.slow, s.open, 1::bigint as n, s.open::integer as found
        from (select r.lane, r.rank from queue.ready r
            where r.queue = p_queue and r.tenant = p_tenant and r.lane > p_after order by r.lane, r.rank limit 1) x,
            queue.lane_state(p_queue, x.lane, p_slow) s
        union all
        select x.lane, x.rank, s.guarded, s.slow, s.open, later.n + 1, later.found + s.open::integer
        from later, lateral (
            select r.lane, r.rank from queue.ready r
            where r.queue = p_queue and r.tenant = p_tenant and r.lane > later.lane order by r.lane, r.rank limit 1) x,
            queue.lane_state(p_queue, x.lane, p_slow) s
        where later.n < p_look and later.found < p_open
    ), first as (
        select x.lane, x.rank, s.guarded, s.slow, s.open, p_look + 1::bigint as n, s.open::integer + b.found as found
        from (select coalesce(max(l.found), 0) as found from later l) b, lateral (
            select r.lane, r.rank from queue.ready r
            where r.queue = p_queue and r.tenant = p_tenant and r.lane <= p_after and b.found < p_open
            order by r.lane, r.rank limit 1) x,
            queue.lane_state(p_queue, x.lane, p_slow) s
        union all
        select x.lane, x.rank, s.guarded, s.slow, s.open, first.n + 1, first.found + s.open::integer
        from first, lateral (
            select r.lane, r.rank from queue.ready r
            where r.queue = p_queue and r.tenant = p_tenant and r.lane > first.lane and r.lane <= p_after
            order by r.lane, r.rank limit 1) x,
            queue.lane_state(p_queue, x.lane, p_slow) s
        where first.n < 2 * p_look and first.found < p_open
    )
    (select lane, rank, guarded, slow, open, n from later) union all (select lane, rank, guarded, slow, open, n from first) limit p_look
$$;

-- The lanes with ready jobs, by tenant, in the order of their turns: tenants after `p_after`, the lanes of each after
-- the one that `p_lanes` names for it, or after any. About `p_window` open lanes are returned, and at least one of each tenant. Those
-- that may not start now are returned as not open, so that the caller can go past them; some dozens of each tenant are
-- looked at. `head` is the place of a lane's first job, `whole` says that no lane was left out, `at` when the look
-- began, `took_ms` how long it took.
create function queue.walk(p_queue text, p_window integer, p_after text, p_tenants text[], p_lanes text[], p_slow boolean)
returns table (tenant text, weight integer, lane text, guarded boolean, slow boolean, open boolean, head timestamptz, whole boolean,
    at timestamptz, took_ms double precision)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off
set enable_material = off set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_began timestamptz := clock_timestamp();
    -- Where to begin with a tenant whose last lane is not known. Were it drawn for each of them, next_lanes could not be a
    -- part of this plan and would be planned anew for each tenant.
    v_anywhere text := md5(random()::text);
    v_tenants text[];
    v_open integer;
    v_look integer;
begin
    if exists (select 1 from queue.lanes l where l.queue = p_queue and l.lane = '' and l.paused) then
        return;
    end if;
    select array_agg(t.tenant order by t.n) into v_tenants from queue.next_tenants(p_queue, p_after, p_window) t;
    if v_tenants is null then
        return;
    end if;
    v_open := ceil(p_window::numeric / cardinality(v_tenants));
    v_look := greatest(4 * v_open, 64);
    return query
    with walked as (
        select t.tenant, coalesce(w.weight, 1) as weight, x.lane, x.guarded, x.slow, x.open, x.head, t.n as turn, x.n,
            count(*) over of_tenant < v_look and count(*) filter (where x.open) over of_tenant < v_open as whole
        from unnest(v_tenants) with ordinality as t(tenant, n)
        left join lateral (select w.weight from queue.tenants w where w.tenant = t.tenant limit 1) w on true
        left join unnest(p_tenants, p_lanes) as c(tenant, lane) on c.tenant = t.tenant
        cross join lateral queue.next_lanes(p_queue, t.tenant, coalesce(c.lane, v_anywhere), v_open, v_look, p_slow) x
        window of_tenant as (partition by t.n)
    )
    select tenant, weight, lane, guarded, slow, open, head, cardinality(v_tenants) < p_window and bool_and(whole) over (),
        v_began, extract(epoch from clock_timestamp() - v_began)::float8 * 1000
    from walked order by turn, n;
end
$$;

-- Lanes that have come beside the known ones: of each gap between two lanes of a known tenant, and between two such tenants,
-- the first lanes with a ready job, up to one that is open, and some dozens at most. The rows of the known lanes are passed
-- by, and what has died among them. (A comparison of rows would do it in one: the server begins such a scan at all rows of
-- the lane before.)
create function queue.walk_between(p_queue text, p_tenants text[], p_lanes text[], p_slow boolean)
returns table (tenant text, weight integer, lane text, guarded boolean, slow boolean, open boolean, head timestamptz)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_material = off set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    -- After every name.
    v_end constant text := U&'\+10FFFF';
begin
    return query
    with known as materialized (
        select k.tenant collate "C" as tenant, k.lane collate "C" as lane from unnest(p_tenants, p_lanes) k(tenant, lane)
        union all
        select distinct t collate "C", '' from unnest(p_tenants) t
    ), lane_gaps as materialized (
        select k.tenant, k.lane as after, lead(k.lane, 1, v_end) over (partition by k.tenant order by k.lane) as before from known k
    ), tenant_gaps as materialized (
        select t.tenant as after, lead(t.tenant, 1, v_end) over (order by t.tenant) as before
        from (select distinct tenant from known union select '') t
    ), found as materialized (
        select x.* from lane_gaps g cross join lateral (
            with recursive next as (
                (select r.tenant, r.lane, r.rank, s.guarded, s.slow, s.open, 1 as n
                 from (select r.tenant, r.lane, r.rank from queue.ready r
                    where r.queue = p_queue and r.tenant = g.tenant and r.lane > g.after and r.lane < g.before
                    order by r.lane, r.rank limit 1) r, queue.lane_state(p_queue, r.lane, p_slow) s)
                union all
                select r.tenant, r.lane, r.rank, s.guarded, s.slow, s.open, next.n + 1
                from next, lateral (select r.tenant, r.lane, r.rank from queue.ready r
                    where r.queue = p_queue and r.tenant = g.tenant and r.lane > next.lane and r.lane < g.before
                    order by r.lane, r.rank limit 1) r, queue.lane_state(p_queue, r.lane, p_slow) s
                where not next.open and next.n < 64
            )
            select n.tenant, n.lane, n.rank, n.guarded, n.slow, n.open from next n) x
        union all
        select x.* from tenant_gaps g cross join lateral (
            with recursive next as (
                (select r.tenant, r.lane, r.rank, s.guarded, s.slow, s.open, 1 as n
                 from (select r.tenant, r.lane, r.rank from queue.ready r
                    where r.queue = p_queue and r.tenant > g.after and r.tenant < g.before
                    order by r.tenant, r.lane, r.rank limit 1) r, queue.lane_state(p_queue, r.lane, p_slow) s)
                union all
                select r.tenant, r.lane, r.rank, s.guarded, s.slow, s.open, next.n + 1
                from next, lateral (
                    select * from (
                        (select r.tenant, r.lane, r.rank from queue.ready r
                         where r.queue = p_queue and r.tenant = next.tenant and r.lane > next.lane
                         order by r.lane, r.rank limit 1)
                        union all
                        (select r.tenant, r.lane, r.rank from queue.ready r
                         where r.queue = p_queue and r.tenant > next.tenant and r.tenant < g.before
                         order by r.tenant, r.lane, r.rank limit 1)) either
                    order by tenant limit 1) r, queue.lane_state(p_queue, r.lane, p_slow) s
                where not next.open and next.n < 64
            )
            select n.tenant, n.lane, n.rank, n.guarded, n.slow, n.open from next n) x
    )
    select x.tenant, coalesce(w.weight, 1), x.lane, x.guarded, x.slow, x.open, x.rank
    from found x
    left join lateral (select w.weight from queue.tenants w where w.tenant = x.tenant limit 1) w on true;
end
$$;

-- Moves ready jobs to `running` under the lease: from each given lane the first ones from the place `p_from` on (null: from
-- its head), at most its budget. What is set for a lane is judged here; of two tenants that name the same lane with
-- limits only the first gets any. An ordered lane of which none runs gives up to `p_unit` jobs for a budget of one, always from
-- its head, for what ran may have come back there; all slow lanes together give at most `p_slow`. Raises 'QL001' when the lease has lapsed. `fate` says what became of a job: claimed;
-- removed, because its group was cancelled; parked, because its group is held. A row whose fate is `held by another`
-- or `full` is no job: another claimer has this lane's limits in hand, or they allow no more than was claimed.
create function queue.take(p_lease uuid, p_queue text, p_tenants text[], p_lanes text[], p_budgets integer[], p_from timestamptz[],
    p_slow integer, p_unit integer)
returns table (fate text, id uuid, tenant text, lane text, grp text, epoch bigint, attempt integer, crashes smallint, run integer,
    max_attempts integer, payload text, trace text, capped boolean, ordered boolean, slow boolean, rank timestamptz, priority smallint)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_budgets integer[] := p_budgets;
    v_from timestamptz[] := p_from;
    v_locked text[];
    v_guarded text[];
    v_ordered text[];
    v_slow text[];
    v_held text[];
    v_full text[];
begin
    perform 1 from queue.leases where id = p_lease and expires_at > clock_timestamp() for key share;
    if not found then
        raise exception 'the lease % has lapsed', p_lease using errcode = 'QL001';
    end if;

    if exists (select 1 from queue.lanes l where l.queue = p_queue and l.lane = any (array_append(p_lanes, '')) and (l.guarded
        or l.paused or l.closed_until > now()))
    then
        -- A cap is judged under the lane's row lock; a lane that another claimer holds is left to it for this time. The
        -- running jobs are counted in the next statement, whose snapshot is taken after the locks: a lock that were taken
        -- there could be one that has just been given up by whoever claimed what the snapshot does not show.
        select coalesce(array_agg(k.lane), '{}') into v_locked from (
            select l.lane from queue.lanes l
            where l.queue = p_queue and l.lane = any (p_lanes) and l.guarded
            order by l.lane for update skip locked) k;
        with limited as (
            select v.n, v.lane, v.budget as asked, l.lane is not null as guarded, l.lane is not null and l.lane not in (select unnest(v_locked)) as held,
                coalesce(l.ordered, false) as ordered, coalesce(l.slow, false) as slow,
                case
                    when a.paused or s.paused or s.closed_until > now() then 0
                    when l.lane is null then v.budget
                    when l.lane not in (select unnest(v_locked)) or row_number() over (partition by v.lane order by v.n) > 1 then 0
                    else greatest(0, least(
                        case when not l.ordered then v.budget when l.slow or l.cap = 1 then least(v.budget, 1)
                            else least(v.budget * p_unit, p_unit) end,
                        case when not l.ordered then l.cap
                                - (select count(*) from queue.running r
                                    where r.queue = p_queue and r.lane = v.lane and r.capped and r.started_at >= l.counted_from)::integer
                            when l.cap = 0 or exists (select from queue.running r
                                where r.queue = p_queue and r.lane = v.lane and r.capped and r.started_at >= l.counted_from) then 0 end,
                        case when l.per_second is null then null when l.next_at > now() then 0
                            else greatest(1, floor(extract(epoch from now() - greatest(l.next_at, now() - interval '1 second')) * l.per_second))::integer end))
                end as budget
            from unnest(p_lanes, p_budgets) with ordinality as v(lane, budget, n)
            left join lateral (select a.paused from queue.lanes a where a.queue = p_queue and a.lane = '' limit 1) a on true
            left join lateral (
                select s.paused, s.closed_until from queue.lanes s where s.queue = p_queue and s.lane = v.lane limit 1) s on true
            left join lateral (
                select l.* from queue.lanes l
                where l.queue = p_queue and l.lane = v.lane and l.guarded limit 1) l on true
        ), judged as (
            select i.*, case when i.slow then least(i.budget, greatest(0, p_slow - coalesce(sum(i.budget)
                over (partition by i.slow order by i.n rows between unbounded preceding and 1 preceding), 0)))::integer else i.budget end as share
            from limited i
        )
        select array_agg(j.share order by j.n), array_agg(distinct j.lane) filter (where j.guarded), array_agg(j.lane) filter (where j.held),
            array_agg(distinct j.lane) filter (where j.guarded and not j.held and j.share < j.asked),
            array_agg(j.lane) filter (where j.ordered), array_agg(j.lane) filter (where j.slow),
            array_agg(case when not j.ordered then p_from[j.n] end order by j.n)
        into v_budgets, v_guarded, v_held, v_full, v_ordered, v_slow, v_from from judged j;
        -- Nothing that still runs started before this, but for the time that a claim's statement may take: what died
        -- before need not be walked over by the next count.
        update queue.lanes l
        set counted_from = least(now(), (
            select r.started_at from queue.running r
            where r.queue = p_queue and r.lane = l.lane and r.capped and r.started_at >= l.counted_from
            order by r.started_at limit 1)) - interval '30 seconds'
        where l.queue = p_queue and l.lane = any (v_locked) and (l.cap is not null or l.ordered) and l.counted_from < now() - interval '90 seconds';
    end if;

    return query
    with picked as (
        select p.ctid
        from unnest(p_tenants, p_lanes, v_budgets, v_from) as v(tenant, lane, budget, start)
        cross join lateral (
            select r.ctid from queue.ready r
            where r.queue = p_queue and r.tenant = v.tenant and r.lane = v.lane and r.rank >= coalesce(v.start, '-infinity')
            order by r.rank, r.id limit v.budget for update skip locked
        ) p
    ), taken as (
        delete from queue.ready r where r.ctid = any (array(select ctid from picked))
        returning r.*, r.lane in (select unnest(v_guarded)) as guarded, r.lane in (select unnest(v_ordered)) as ordered,
            r.lane in (select unnest(v_slow)) as slow
    ), judged as (
        select t.*, case when g.epoch > t.epoch then 'removed' when g.held then 'parked' else 'claimed' end as fate
        from taken t cross join lateral queue.group_of(t.grp) g
    ), unkeyed as (
        delete from queue.keys where ctid = any (array(
            select k.ctid from judged j cross join lateral (
                select k.ctid from queue.keys k where k.queue = j.queue and k.key = j.key and k.job_id = j.id limit 1) k
            where j.fate = 'removed' and j.key is not null))
    ), parked as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error, 'infinity'
        from judged where fate = 'parked'
    ), rated as (
        update queue.lanes l
        set next_at = greatest(l.next_at, now() - interval '1 second')
            + make_interval(secs => (select count(*) from judged j where j.lane = l.lane and j.fate = 'claimed') / l.per_second)
        where l.ctid = any (array(
            select l.ctid from (select distinct lane from judged where guarded and fate = 'claimed') j cross join lateral (
                select l.ctid from queue.lanes l where l.queue = p_queue and l.lane = j.lane and l.per_second is not null limit 1) l))
    ), claimed as (
        insert into queue.running (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error, lease, capped, ordered)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run + 1,
            max_attempts, payload, trace, created_at, rank, last_error, p_lease, guarded, ordered
        from judged where fate = 'claimed'
        returning 'claimed', id, tenant, lane, grp, epoch, attempt, crashes, run, max_attempts, payload, trace, capped, ordered,
            lane in (select unnest(v_slow)), rank, priority
    )
    select * from claimed
    union all
    select fate, id, tenant, lane, grp, epoch, attempt, crashes, run, max_attempts, payload, trace, guarded, ordered, slow, rank, priority
    from judged where fate <> 'claimed'
    union all
    select h.fate, p_lease, '', h.lane, null, 0, 0, 0::smallint, 0, 0, '', null, true, false, false, now(), 0::smallint
    from (
        select 'held by another' as fate, l as lane from unnest(v_held) l
        union all
        select 'full', l from unnest(v_full) l) h;
end
$$;

-- Records outcomes of running jobs and returns the tokens that were accepted; a job whose run is not the given one is
-- stale and is left alone. Outcomes: done, cancelled, retry (an attempt is counted), snooze (none is), return (none is, and
-- it keeps its place in the lane), handback (never started; keeps its place too), lost (never started either, as was found out
-- later: it waits anew, for its old place may be so far behind the lane's others that nobody looks there), dead. What is to wait in an ordered lane keeps its place as well,
-- and the lane is closed meanwhile. A retry past `max_attempts` is dead with reason `exhausted`. `p_delays` are milliseconds. A recorded
-- outcome says that the job does not kill its process, so its crashes are forgotten, but for those that never started.
create function queue.complete(p_ids uuid[], p_runs integer[], p_outcomes text[], p_delays bigint[],
    p_errors text[], p_reasons text[]) returns table (id uuid, run integer)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    -- Most jobs are done, and need none of what the others do.
    if p_outcomes <@ array['done', 'cancelled'] then
        return query
        with gone as (
            delete from queue.running where ctid = any (array(
                select r.ctid from unnest(p_ids, p_runs) as i(id, run) cross join lateral (
                    select r.ctid from queue.running r where r.id = i.id and r.run = i.run limit 1) r))
            returning running.id, running.run, running.queue, running.key
        ), unkeyed as (
            delete from queue.keys where ctid = any (array(
                select k.ctid from gone g cross join lateral (
                    select k.ctid from queue.keys k where k.queue = g.queue and k.key = g.key and k.job_id = g.id limit 1) k
                where g.key is not null))
        )
        select id, run from gone;
        return;
    end if;
    return query
    with input as materialized (
        select distinct on (id, run) *
        from unnest(p_ids, p_runs, p_outcomes, p_delays, p_errors, p_reasons) as i(id, run, outcome, delay, error, why)
    ), taken as (
        delete from queue.running where ctid = any (array(
            select r.ctid from input i cross join lateral (
                select r.ctid from queue.running r where r.id = i.id and r.run = i.run limit 1) r))
        returning running.*
    ), gone as (
        select t.*, i.outcome, i.delay, i.error, i.why from taken t join input i on i.id = t.id and i.run = t.run
    ), judged as (
        select g.*,
            case
                when g.outcome in ('done', 'cancelled') then 'finish'
                when g.outcome = 'dead' then 'die'
                when o.epoch > g.epoch then 'finish'
                when g.outcome = 'retry' and g.attempt + 1 >= g.max_attempts then 'die'
                when g.outcome in ('return', 'handback') then 'ready'
                when g.ordered then 'ready'
                else 'defer'
            end as fate,
            case when g.outcome in ('retry', 'dead') then g.attempt + 1 else g.attempt end as attempts
        from gone g cross join lateral queue.group_of(g.grp) o
    ), unkeyed as (
        delete from queue.keys where ctid = any (array(
            select k.ctid from judged j cross join lateral (
                select k.ctid from queue.keys k where k.queue = j.queue and k.key = j.key and k.job_id = j.id limit 1) k
            where j.fate in ('finish', 'die') and j.key is not null))
    ), deferred as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempts, case when outcome = 'lost' then crashes else 0 end, run,
            max_attempts, payload, trace, created_at, coalesce(error, last_error),
            now() + make_interval(secs => delay / 1000.0)
        from judged where fate = 'defer'
    ), returned as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempts, case when outcome in ('handback', 'lost') then crashes else 0 end, run,
            max_attempts, payload, trace, created_at, rank, coalesce(error, last_error)
        from judged where fate = 'ready'
    ), closed as (
        update queue.lanes l
        set (closed_until, reason) = (
            select greatest(l.closed_until, w.until), case when l.closed_until > w.until then l.reason else 'retry' end
            from (select now() + make_interval(secs => max(j.delay) / 1000.0) as until
                from judged j where j.queue = l.queue and j.lane = l.lane and j.outcome in ('retry', 'snooze')) w)
        where l.ctid = any (array(
            select l.ctid from (select distinct queue, lane from judged
                where fate = 'ready' and outcome in ('retry', 'snooze') and delay > 0 order by queue, lane) j
            cross join lateral (
                select l.ctid from queue.lanes l where l.queue = j.queue and l.lane = j.lane limit 1) l))
    ), buried as (
        insert into queue.dead (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error, reason)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempts, crashes, run,
            max_attempts, payload, trace, created_at, rank, coalesce(error, last_error), coalesce(why, 'exhausted')
        from judged where fate = 'die'
    )
    select id, run from judged;
end
$$;

-- Moves due timers to `ready`, at most `p_limit`; those of a held group are parked. With `p_from` those that were due before
-- it are not looked for, which spares the rows that died there. Returns how many timers were looked at, the queues that got
-- jobs, when the next timer is due, what time it was, and how long that took.
create function queue.promote(p_limit integer, p_from timestamptz, out promoted integer, out queues text[],
    out next_at timestamptz, out at timestamptz, out took_ms double precision)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    with due as (
        select ctid, grp, epoch from queue.deferred
        where run_at >= coalesce(p_from, '-infinity') and run_at <= now() order by run_at limit p_limit for update skip locked
    ), judged as (
        select d.ctid, g.epoch > d.epoch as cancelled, g.held from due d cross join lateral queue.group_of(d.grp) g
    ), parked as (
        update queue.deferred set run_at = 'infinity', rank = queue.rank_of(run_at, priority)
        where ctid = any (array(select j.ctid from judged j where j.held and not j.cancelled))
    ), removed as (
        delete from queue.deferred where ctid = any (array(select j.ctid from judged j where j.cancelled))
        returning queue, key, id
    ), unkeyed as (
        delete from queue.keys where ctid = any (array(
            select k.ctid from removed r cross join lateral (
                select k.ctid from queue.keys k where k.queue = r.queue and k.key = r.key and k.job_id = r.id limit 1) k
            where r.key is not null))
    ), taken as (
        delete from queue.deferred where ctid = any (array(select j.ctid from judged j where not j.held and not j.cancelled))
        returning *
    ), moved as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, queue.rank_of(run_at, priority), last_error
        from taken
        returning ready.queue
    )
    select (select count(*) from due), coalesce(array_agg(distinct m.queue), '{}') into promoted, queues from moved m;
    -- Held jobs wait at infinity and are nobody's next timer.
    select d.run_at into next_at from queue.deferred d
    where d.run_at >= coalesce(p_from, '-infinity') and d.run_at < 'infinity' order by d.run_at limit 1;
    at := now();
    took_ms := extract(epoch from clock_timestamp() - at) * 1000;
end
$$;

-- Cancels all jobs of the groups `p_prefixes` and below, in the caller's transaction, and returns how many waiting ones
-- were removed. The raised epoch stops what moves between tables meanwhile.
create function queue.cancel(p_prefixes text[]) returns bigint
language plpgsql set enable_seqscan = off set enable_nestloop = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    v_removed bigint;
begin
    -- In order, so that two that cancel the same groups wait for each other in one direction only.
    insert into queue.groups (prefix, epoch)
    select p, nextval('queue.epochs') from (select distinct unnest(p_prefixes) as p order by 1) d
    on conflict (prefix) do update set epoch = nextval('queue.epochs'), held = false, updated_at = now(),
        released_at = case when groups.held then 'infinity' else groups.released_at end;
    with waiting as (
        delete from queue.ready where ctid = any (array(
            select j.ctid from unnest(p_prefixes) p cross join lateral (
                (select r.ctid from queue.ready r where r.grp = p offset 0)
                union all
                (select r.ctid from queue.ready r where r.grp >= p || '/' and r.grp < p || '0' offset 0)) j))
        returning queue, key, id
    ), timers as (
        delete from queue.deferred where ctid = any (array(
            select j.ctid from unnest(p_prefixes) p cross join lateral (
                (select r.ctid from queue.deferred r where r.grp = p offset 0)
                union all
                (select r.ctid from queue.deferred r where r.grp >= p || '/' and r.grp < p || '0' offset 0)) j))
        returning queue, key, id
    ), removed as (
        select * from waiting union all select * from timers
    ), unkeyed as (
        delete from queue.keys where ctid = any (array(
            select k.ctid from removed r cross join lateral (
                select k.ctid from queue.keys k where k.queue = r.queue and k.key = r.key and k.job_id = r.id limit 1) k
            where r.key is not null))
    )
    select count(*) into v_removed from removed;
    return v_removed;
end
$$;

-- Holds all jobs of the group and below: what is due waits at infinity, timers keep their time until they are due.
create function queue.hold(p_prefix text) returns void
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    insert into queue.groups (prefix, held) values (p_prefix, true)
    on conflict (prefix) do update set held = true, updated_at = now();
    with taken as (
        delete from queue.ready where grp = p_prefix or (grp >= p_prefix || '/' and grp < p_prefix || '0') returning *
    )
    insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
        max_attempts, payload, trace, created_at, rank, last_error, run_at)
    select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
        max_attempts, payload, trace, created_at, rank, last_error, 'infinity' from taken;
end
$$;

-- Makes the parked jobs of the group and below ready; returns their queues. Those that a prefix above or below still
-- holds are parked again by the claim.
create function queue.unpark(p_prefix text) returns text[]
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    v_queues text[];
begin
    with due as (
        delete from queue.deferred
        where run_at = 'infinity' and (grp = p_prefix or (grp >= p_prefix || '/' and grp < p_prefix || '0')) returning *
    ), moved as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error from due
        returning ready.queue
    )
    select coalesce(array_agg(distinct m.queue), '{}') into v_queues from moved m;
    return v_queues;
end
$$;

-- Ends a hold.
create function queue.release(p_prefix text) returns text[] language plpgsql as $$
begin
    update queue.groups set held = false, released_at = 'infinity', updated_at = now() where prefix = p_prefix;
    return queue.unpark(p_prefix);
end
$$;

-- Whoever saw the hold may have parked jobs after the release looked for them. They are found here: such a transaction
-- has ended, one way or the other, within half a minute after the release could be seen, which is when it is first seen
-- here (until then `released_at` is infinity). What a prefix above still holds stays parked.
create function queue.unpark_released() returns text[] language plpgsql as $$
declare
    v_prefix text;
    v_queues text[] := '{}';
begin
    update queue.groups set released_at = clock_timestamp() where released_at = 'infinity';
    for v_prefix in
        select prefix from queue.groups where released_at > clock_timestamp() - interval '30 seconds'
    loop
        if not (select g.held from queue.group_of(v_prefix) g) then
            v_queues := v_queues || queue.unpark(v_prefix);
        end if;
    end loop;
    return v_queues;
end
$$;

-- Forgets groups that govern nothing any more: not held, unchanged for a day, and without a job. Looks at `p_limit`
-- prefixes after `p_after` and returns the last of them; null says that the end was reached. A job carries the sum of the
-- epochs above it, which a group that is cancelled after it was forgotten must not fall behind; so a group is left alone that
-- an open transaction enqueues for, which holds its row, and what such a one has added meanwhile is seen by the second look.
create function queue.forget_groups(p_after text, p_limit integer) returns text
language plpgsql set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
declare
    v_last text;
    v_free text[];
begin
    select max(g.prefix) into v_last from (select prefix from queue.groups where prefix > p_after order by prefix limit p_limit) g;
    select array_agg(f.prefix) into v_free from (
        select g.prefix from queue.groups g
        where g.prefix > p_after and g.prefix <= v_last and not g.held and g.updated_at < now() - interval '1 day'
            and not queue.governs(g.prefix)
        for update skip locked) f;
    delete from queue.groups g
    where g.prefix = any (v_free) and not queue.governs(g.prefix)
        and g.prefix not in (select unnest(queue.prefixes(j.grp)) from queue.running j where j.grp is not null);
    return v_last;
end
$$;

-- Whether a group, or one below it, has a job that does not run.
create function queue.governs(p_prefix text) returns boolean language plpgsql stable
set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    return exists (select from queue.ready j where j.grp = p_prefix)
        or exists (select from queue.ready j where j.grp >= p_prefix || '/' and j.grp < p_prefix || '0')
        or exists (select from queue.deferred j where j.grp = p_prefix)
        or exists (select from queue.deferred j where j.grp >= p_prefix || '/' and j.grp < p_prefix || '0')
        or exists (select from queue.dead j where j.grp = p_prefix)
        or exists (select from queue.dead j where j.grp >= p_prefix || '/' and j.grp < p_prefix || '0');
end
$$;

-- Whether the database took beats, from whichever process, for the last expiry: with no gap of more than half of one, and
-- from its first quarter on. After an outage of the database it is false until the holders of leases have had three
-- quarters of an expiry (a beat that fails is tried again within 2.8 s) to renew. One process need not have
-- lived that long: processes that die every second must not keep each other from being rescued.
create function queue.is_steady(p_expiry interval) returns boolean language sql volatile as $$
    with beats as (
        select steady_since, beat_at from queue.leases where beat_at >= clock_timestamp() - p_expiry
        union all
        select steady_since, beat_at from queue.deaths where beat_at >= clock_timestamp() - p_expiry
    ), lives as (
        select steady_since, beat_at,
            max(beat_at) over (order by steady_since rows between unbounded preceding and 1 preceding) as covered
        from beats
    )
    select coalesce(
        min(steady_since) <= clock_timestamp() - p_expiry * 0.75
            and coalesce(max(steady_since - covered), '0') <= p_expiry / 2
            and clock_timestamp() - max(beat_at) <= p_expiry / 2, false)
    from lives
$$;

-- Ends the leases that have expired, and those of `p_dead`, whose processes somebody on the same machine saw dead, once
-- the connection of their beats is gone as well (of two machines that take each other for one, it shows which one lives).
-- Gives their running jobs back, a crash counted. They become due within a second, after a second crash within four, then
-- within sixteen: those that merely died together shall not all run, and die, together again. Those of an ordered lane go
-- back to their places; of them only the first can have been running.
--
-- The third crash is death when every process that died in the last ten minutes died with the job in it, the fifth when
-- more than half of them did; but not while another job of the same process is as suspect, for one of the two is a
-- bystander, and they hardly meet again. When processes die without it as well, by a failing machine or whoever kills
-- them, a crash says little against the job, and it takes `p_crashes_max` of them. Jobs whose lease row is gone altogether (a restored backup) are found when
-- `p_orphans` is set; no crash is counted for them. Returns how many jobs of each queue were given back, and how many died.
create function queue.rescue(p_crashes integer, p_crashes_max integer, p_expiry interval, p_orphans boolean,
    p_dead uuid[])
returns table (queue text, rescued bigint, died bigint)
language plpgsql set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_steady boolean := queue.is_steady(p_expiry);
    v_expired uuid[];
    v_leases uuid[];
    v_deaths integer;
begin
    if not v_steady and p_dead = '{}' then
        return;
    end if;
    select array_agg(e.id) into v_expired from (
        select id from queue.leases
        where v_steady and expires_at < clock_timestamp()
            or id = any (p_dead) and not exists (select 1 from pg_stat_get_activity(coalesce(backend, 0)))
        for update skip locked) e;
    -- A process that was stopped in the middle of a transaction keeps its rows locked; they would hold up all the others. Its
    -- lease goes once it has none left, in a later sweep; that it is over the process learns at once (a beat renews none that
    -- expired at the epoch), for its other jobs are somebody else's from here on.
    update queue.leases set expires_at = 'epoch' where id = any (v_expired);
    insert into queue.deaths (lease, steady_since, beat_at)
    select l.id, l.steady_since, l.beat_at from queue.leases l
    where l.id = any (v_expired) and not exists (select 1 from queue.deaths d where d.lease = l.id);
    v_leases := v_expired;
    if p_orphans and v_steady then
        select v_leases || array_agg(distinct r.lease) into v_leases
        from queue.running r where not exists (select 1 from queue.leases l where l.id = r.lease);
    end if;
    if v_leases is null then
        return;
    end if;
    delete from queue.deaths where died_at < clock_timestamp() - interval '10 minutes';
    select count(*) into v_deaths from queue.deaths;
    return query
    with taken as (
        delete from queue.running r where r.ctid = any (array(
            select f.ctid from queue.running f where f.lease = any (v_leases) for update skip locked))
        returning r.*
    ), counted as (
        select t.*, t.crashes + (coalesce(t.lease = any (v_expired), false) and (not t.ordered
            or row_number() over (partition by t.ordered, t.queue, t.lane order by t.rank, t.id) = 1))::integer as crashed
        from taken t
    ), judged as (
        select t.*,
            case when g.epoch > t.epoch then 'finish'
                 when t.crashed >= p_crashes_max then 'die'
                 when t.crashed >= p_crashes and t.crashed > t.crashes
                    and count(*) filter (where t.crashed >= p_crashes) over (partition by t.lease) = 1
                    and v_deaths < case when t.crashed < p_crashes + 2 then t.crashed + 1 else 2 * t.crashed end then 'die'
                 else 'defer' end as fate
        from counted t cross join lateral queue.group_of(t.grp) g
    ), unkeyed as (
        delete from queue.keys where ctid = any (array(
            select k.ctid from judged j cross join lateral (
                select k.ctid from queue.keys k where k.queue = j.queue and k.key = j.key and k.job_id = j.id limit 1) k
            where j.fate <> 'defer' and j.key is not null))
    ), returned as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashed, run,
            max_attempts, payload, trace, created_at, rank, last_error,
            now() + make_interval(secs => random() * power(4, least(crashes, 2)))
        from judged where fate = 'defer' and not ordered
    ), replaced as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashed, run,
            max_attempts, payload, trace, created_at, rank, last_error
        from judged where fate = 'defer' and ordered
    ), buried as (
        insert into queue.dead (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, rank, last_error, reason)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashed, run,
            max_attempts, payload, trace, created_at, rank, last_error, 'crashed'
        from judged where fate = 'die'
    )
    select queue, count(*) filter (where fate = 'defer'), count(*) filter (where fate = 'die') from judged group by queue;
    delete from queue.leases l
    where l.id = any (v_expired) and not exists (select 1 from queue.running r where r.lease = l.id);
end
$$;

-- What there is to do, looked up by one statement so that an idle process asks little: which of the queues have ready
-- jobs, in how many milliseconds the next timer is due (of those from `p_from` on) and the next lease expires, whether there
-- are leases to end or released groups to look after, and the leases of processes on the machine `p_machine`.
create function queue.look(p_queues text[], p_machine text, p_from timestamptz, out ready text[], out next_timer_ms double precision,
    out expired boolean, out next_expiry_ms double precision, out released boolean, out neighbours uuid[],
    out pids integer[], out started bigint[])
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    -- Held jobs wait at infinity and are nobody's next timer.
    next_timer_ms := (select extract(epoch from d.run_at - clock_timestamp()) * 1000
        from queue.deferred d where d.run_at >= coalesce(p_from, '-infinity') and d.run_at < 'infinity' order by d.run_at limit 1);
    select coalesce(bool_or(l.expires_at < clock_timestamp()), false),
        extract(epoch from min(l.expires_at) filter (where l.expires_at >= clock_timestamp()) - clock_timestamp()) * 1000,
        coalesce(array_agg(l.id) filter (where l.machine = p_machine), '{}'),
        coalesce(array_agg(l.pid) filter (where l.machine = p_machine), '{}'),
        coalesce(array_agg(l.started) filter (where l.machine = p_machine), '{}')
    into expired, next_expiry_ms, neighbours, pids, started
    from queue.leases l;
    released := exists (select 1 from queue.groups where released_at > clock_timestamp() - interval '30 seconds');
    select coalesce(array_agg(q.queue), '{}') into ready from unnest(p_queues) q(queue)
    where exists (select 1 from queue.ready r where r.queue = q.queue);
end
$$;
