-- The hot statements as functions: one round trip each, and planner settings that hold on tables never analysed (a
-- queue is empty when statistics are taken and full when they are used).

-- 'a/b/c' is governed by the groups 'a', 'a/b' and 'a/b/c'.
create function queue.prefixes(path text) returns text[] language sql immutable parallel safe as $$
    select array_agg(array_to_string((string_to_array(path, '/'))[1:n], '/'))
    from generate_subscripts(string_to_array(path, '/'), 1) n
$$;

-- Epochs only rise, so their sum over a path rises whenever any prefix of it is cancelled.
create function queue.epoch_of(path text) returns bigint language sql stable parallel safe as $$
    select coalesce(sum(g.epoch), 0)::bigint from queue.groups g where g.prefix = any (queue.prefixes(path))
$$;

create function queue.is_held(path text) returns boolean language sql stable parallel safe as $$
    select exists (select 1 from queue.groups g where g.prefix = any (queue.prefixes(path)) and g.held)
$$;

-- Up to `p_tenants` tenants with ready jobs, in turn after `p_after`, by a loose index scan that wraps around once.
create function queue.next_tenants(p_queue text, p_after text, p_tenants integer) returns setof text
language sql stable set enable_seqscan = off set enable_bitmapscan = off as $$
    with recursive later as (
        (select tenant from queue.ready where queue = p_queue and tenant > p_after order by tenant limit 1)
        union all
        select n.tenant from later, lateral (
            select tenant from queue.ready where queue = p_queue and tenant > later.tenant order by tenant limit 1) n
    ), first as (
        (select tenant from queue.ready where queue = p_queue and tenant <= p_after order by tenant limit 1)
        union all
        select n.tenant from first, lateral (
            select tenant from queue.ready
            where queue = p_queue and tenant > first.tenant and tenant <= p_after order by tenant limit 1) n
    )
    (select tenant from later limit p_tenants) union all (select tenant from first limit p_tenants) limit p_tenants
$$;

-- The same over one tenant's lanes, leaving out those that are paused or closed. At most 4 times as many lanes are
-- looked at as are wanted, so that ten thousand closed lanes cannot make one claim long; `walked` says how far it got.
create function queue.next_lanes(p_queue text, p_tenant text, p_after text, p_lanes integer)
returns table (lane text, guarded boolean, open boolean)
language sql stable set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
    with recursive later as (
        (select r.lane from queue.ready r
         where r.queue = p_queue and r.tenant = p_tenant and r.lane > p_after order by r.lane limit 1)
        union all
        select n.lane from later, lateral (
            select r.lane from queue.ready r
            where r.queue = p_queue and r.tenant = p_tenant and r.lane > later.lane order by r.lane limit 1) n
    ), first as (
        (select r.lane from queue.ready r
         where r.queue = p_queue and r.tenant = p_tenant and r.lane <= p_after order by r.lane limit 1)
        union all
        select n.lane from first, lateral (
            select r.lane from queue.ready r
            where r.queue = p_queue and r.tenant = p_tenant and r.lane > first.lane and r.lane <= p_after
            order by r.lane limit 1) n
    ), walked as (
        (select later.lane from later limit p_lanes * 4) union all (select first.lane from first limit p_lanes * 4)
        limit p_lanes * 4
    )
    select w.lane,
        l.cap is not null or l.per_second is not null,
        l.lane is null or (not l.paused and (l.closed_until is null or l.closed_until <= now()))
    from walked w left join queue.lanes l on l.queue = p_queue and l.lane = w.lane
$$;

-- Moves up to `p_limit` jobs of one queue to `running` under the lease, fair over tenants first, then over the lanes of
-- each. `p_after` is the tenant the caller served last; `p_tenants` and `p_lanes` say where it stopped in a tenant's
-- lanes. Raises 'QL001' when the lease has lapsed. Jobs of a cancelled group vanish here, jobs of a held one are parked.
create function queue.claim(p_lease uuid, p_queue text, p_limit integer, p_after text, p_tenants text[], p_lanes text[])
returns setof queue.running
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_tenants text[];
    v_quota integer;
    v_lane_tenants text[];
    v_lanes text[];
    v_guarded boolean[];
    v_locked text[];
begin
    perform 1 from queue.leases where id = p_lease and expires_at > clock_timestamp() for key share;
    if not found then
        raise exception 'the lease % has lapsed', p_lease using errcode = 'QL001';
    end if;

    select array_agg(t) into v_tenants from queue.next_tenants(p_queue, p_after, p_limit) t;
    if v_tenants is null then
        return;
    end if;
    v_quota := ceil(p_limit::numeric / cardinality(v_tenants));

    select array_agg(t.tenant order by t.n, x.n), array_agg(x.lane order by t.n, x.n), array_agg(x.guarded order by t.n, x.n)
    into v_lane_tenants, v_lanes, v_guarded
    from unnest(v_tenants) with ordinality as t(tenant, n)
    left join unnest(p_tenants, p_lanes) as c(tenant, lane) on c.tenant = t.tenant
    cross join lateral (
        select n.lane, n.guarded, row_number() over () as n
        from queue.next_lanes(p_queue, t.tenant, coalesce(c.lane, ''), v_quota) n
        where n.open limit v_quota
    ) x;
    if v_lanes is null then
        return;
    end if;

    -- A cap is judged under the lane's row lock. A lane that another claimer holds is left to it for this round. The
    -- running jobs are counted in the next statement, whose snapshot is taken after the locks.
    if true = any (v_guarded) then
        select coalesce(array_agg(l.lane), '{}') into v_locked from (
            select l.lane from queue.lanes l
            where l.queue = p_queue and l.lane in (select v.lane from unnest(v_lanes, v_guarded) v(lane, guarded) where v.guarded)
            order by l.lane for update skip locked
        ) l;
    end if;

    return query
    with lanes as (
        select v.tenant, v.lane, v.guarded, v.n, ceil(v_quota::numeric / count(*) over (partition by v.tenant))::integer as share
        from unnest(v_lane_tenants, v_lanes, v_guarded) with ordinality as v(tenant, lane, guarded, n)
    ), budgets as (
        select l.tenant, l.lane, l.n, case when not l.guarded then l.share else (
            select least(l.share,
                coalesce(g.cap - (select count(*) from queue.running r where r.queue = p_queue and r.lane = l.lane)::integer, l.share),
                case when g.per_second is null then l.share when g.next_at > now() then 0
                    else greatest(1, floor(extract(epoch from now() - greatest(g.next_at, now() - interval '1 second')) * g.per_second))::integer end)
            from queue.lanes g where g.queue = p_queue and g.lane = l.lane and l.lane = any (v_locked)) end as budget
        from lanes l
    ), picked as (
        select p.id, p.shard from budgets b cross join lateral (
            select r.id, r.shard from queue.ready r
            where r.queue = p_queue and r.tenant = b.tenant and r.lane = b.lane
            order by r.priority, r.ready_at, r.id limit greatest(b.budget, 0) for update skip locked
        ) p limit p_limit
    ), taken as (
        delete from queue.ready r using picked p where r.id = p.id and r.shard = p.shard returning r.*
    ), judged as (
        select t.*,
            t.grp is not null and queue.epoch_of(t.grp) > t.epoch as cancelled,
            t.grp is not null and queue.is_held(t.grp) as held
        from taken t
    ), unkeyed as (
        delete from queue.keys k using judged j where j.cancelled and k.queue = j.queue and k.key = j.key and k.job_id = j.id
    ), parked as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, 'infinity'
        from judged where held and not cancelled
    ), rated as (
        update queue.lanes g set next_at = greatest(g.next_at, now()) + make_interval(secs => j.taken / g.per_second)
        from (select lane, count(*) as taken from judged group by lane) j
        where g.queue = p_queue and g.lane = j.lane and g.per_second is not null
    )
    insert into queue.running (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
        max_attempts, payload, trace, created_at, ready_at, last_error, lease)
    select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run + 1,
        max_attempts, payload, trace, created_at, ready_at, last_error, p_lease
    from judged where not held and not cancelled
    returning *;
end
$$;

-- Records outcomes of running jobs and returns the ids that were accepted; a job whose run is not the given one is
-- stale and is left alone. Outcomes: done, cancelled, retry (an attempt is counted), snooze (none is), handback (never
-- started), dead. A retry past `max_attempts` is dead with reason `exhausted`. `p_delays` are milliseconds.
create function queue.complete(p_ids uuid[], p_runs integer[], p_outcomes text[], p_delays bigint[],
    p_errors text[], p_reasons text[]) returns setof uuid
language sql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
    with input as materialized (
        select * from unnest(p_ids, p_runs, p_outcomes, p_delays, p_errors, p_reasons)
            as t(id, run, outcome, delay, error, why)
    ), gone as (
        delete from queue.running r using input i where r.id = i.id and r.run = i.run
        returning r.*, i.outcome, i.delay, i.error, i.why
    ), judged as (
        select g.*,
            case
                when g.outcome in ('done', 'cancelled') then 'finish'
                when g.outcome = 'dead' then 'die'
                when g.grp is not null and queue.epoch_of(g.grp) > g.epoch then 'finish'
                when g.outcome = 'retry' and g.attempt + 1 >= g.max_attempts then 'die'
                when g.outcome = 'handback' then 'ready'
                else 'defer'
            end as fate,
            case when g.outcome in ('retry', 'dead') then g.attempt + 1 else g.attempt end as attempts
        from gone g
    ), unkeyed as (
        delete from queue.keys k using judged j
        where j.fate in ('finish', 'die') and k.queue = j.queue and k.key = j.key and k.job_id = j.id
    ), deferred as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempts, crashes, run,
            max_attempts, payload, trace, created_at, coalesce(error, last_error),
            now() + make_interval(secs => delay / 1000.0)
        from judged where fate = 'defer'
    ), returned as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempts, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error
        from judged where fate = 'ready'
    ), buried as (
        insert into queue.dead (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, reason)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempts, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, coalesce(error, last_error), coalesce(why, 'exhausted')
        from judged where fate = 'die'
    )
    select id from judged
$$;

-- Moves due timers to `ready`, at most `p_limit`. Returns the queues that got some, and when the next timer is due.
create function queue.promote(p_limit integer, out promoted integer, out queues text[], out next_at timestamptz)
language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
    with due as (
        select id, shard from queue.deferred where run_at <= now() order by run_at limit p_limit for update skip locked
    ), taken as (
        delete from queue.deferred d using due where d.id = due.id and d.shard = due.shard returning d.*
    ), judged as (
        select t.*, t.grp is not null and queue.epoch_of(t.grp) > t.epoch as cancelled from taken t
    ), unkeyed as (
        delete from queue.keys k using judged j where j.cancelled and k.queue = j.queue and k.key = j.key and k.job_id = j.id
    ), moved as (
        insert into queue.ready (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, run_at, last_error
        from judged where not cancelled
        returning ready.queue
    )
    select count(*), coalesce(array_agg(distinct m.queue), '{}') into promoted, queues from moved m;
    -- Held jobs wait at infinity and are nobody's next timer.
    select d.run_at into next_at from queue.deferred d where d.run_at < 'infinity' order by d.run_at limit 1;
end
$$;

-- Whether the database took beats, from whichever process, for a whole expiry without a gap of half of one. After an
-- outage of the database it is false until the holders of leases have had time to renew. One process need not have
-- lived that long: processes that die every second must not keep each other from being rescued.
create function queue.is_steady(p_expiry interval) returns boolean language sql volatile as $$
    with leases as (
        select steady_since, beat_at,
            max(beat_at) over (order by steady_since rows between unbounded preceding and 1 preceding) as covered
        from queue.leases where beat_at >= clock_timestamp() - p_expiry
    )
    select coalesce(
        max(greatest(steady_since, clock_timestamp() - p_expiry)
            - greatest(covered, clock_timestamp() - p_expiry)) <= p_expiry / 2
            and clock_timestamp() - max(beat_at) <= p_expiry / 2, false)
    from leases
$$;

-- Ends expired leases and gives their running jobs back, a crash counted. They become due within a second, after a
-- second crash within four, then within sixteen: those that merely died together shall not all run, and die, together
-- again.
--
-- The third crash is death when the job was in more than half of the process deaths of the last ten minutes. When
-- processes die without it as well, by a failing machine or whoever kills them, a crash says little against the job,
-- and it takes `p_crashes_max` of them. Jobs whose lease row is gone altogether (a restored backup) are found when
-- `p_orphans` is set.
create function queue.rescue(p_crashes integer, p_crashes_max integer, p_expiry interval, p_orphans boolean,
    out rescued integer, out died integer)
language plpgsql set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_leases uuid[];
    v_deaths integer;
begin
    rescued := 0; died := 0;
    if not queue.is_steady(p_expiry) then
        return;
    end if;
    with expired as (
        delete from queue.leases where id in (
            select id from queue.leases where expires_at < clock_timestamp() for update skip locked)
        returning id
    ), died as (
        insert into queue.deaths (lease) select id from expired
    )
    select array_agg(id) into v_leases from expired;
    if p_orphans then
        select v_leases || array_agg(distinct r.lease) into v_leases
        from queue.running r where not exists (select 1 from queue.leases l where l.id = r.lease);
    end if;
    if v_leases is null then
        return;
    end if;
    delete from queue.deaths where died_at < clock_timestamp() - interval '10 minutes';
    select count(*) into v_deaths from queue.deaths;
    with taken as (
        delete from queue.running r where r.lease = any (v_leases) returning r.*
    ), judged as (
        select t.*,
            case when t.grp is not null and queue.epoch_of(t.grp) > t.epoch then 'finish'
                 when t.crashes + 1 >= p_crashes_max then 'die'
                 when t.crashes + 1 >= p_crashes and v_deaths < 2 * (t.crashes + 1) then 'die'
                 else 'defer' end as fate
        from taken t
    ), unkeyed as (
        delete from queue.keys k using judged j
        where j.fate <> 'defer' and k.queue = j.queue and k.key = j.key and k.job_id = j.id
    ), returned as (
        insert into queue.deferred (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, run_at)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes + 1, run,
            max_attempts, payload, trace, created_at, ready_at, last_error,
            now() + make_interval(secs => random() * power(4, least(crashes, 2)))
        from judged where fate = 'defer'
        returning 1
    ), buried as (
        insert into queue.dead (shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, reason)
        select shard, id, queue, tenant, lane, priority, grp, epoch, key, attempt, crashes + 1, run,
            max_attempts, payload, trace, created_at, ready_at, last_error, 'crashed'
        from judged where fate = 'die'
        returning 1
    )
    select (select count(*) from returned), (select count(*) from buried) into rescued, died;
end
$$;
