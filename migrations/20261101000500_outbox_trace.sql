-- The trace of what made an event true (a W3C traceparent): its deliveries carry it on.
alter table outbox add column trace text;

-- The shards that have events. A function of its own settings, for its plan outlives the time when the table was empty
-- and reading it whole was cheapest.
create function outbox_filled_shards(p_shards integer) returns setof smallint
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_material = off as $$
begin
    return query select s.n::smallint from generate_series(0, p_shards - 1) as s(n)
    where exists (select from outbox o where o.shard = s.n::smallint) order by s.n;
end
$$;
