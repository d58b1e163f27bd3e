-- The trace of what made an event true (a W3C traceparent): its deliveries carry it on.
alter table outbox add column trace text;

-- The shards that have events, and how many, up to `p_events_max` of each. A function of its own settings, for its plan outlives
-- the time when the table was empty and reading it whole was cheapest.
create function outbox_filled_shards(p_shards integer, p_events_max bigint) returns table (shard smallint, events bigint)
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_material = off as $$
begin
    return query select s.n::smallint, c.events from generate_series(0, p_shards - 1) as s(n) cross join lateral (
        select count(*) as events from (select from outbox o where o.shard = s.n::smallint limit p_events_max) x) c
    where c.events > 0 order by s.n;
end
$$;
