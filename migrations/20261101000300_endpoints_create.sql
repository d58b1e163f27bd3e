-- History is partitioned by the time inside the UUIDv7, so that an id finds its partition.
create function uuid_v7_floor(at timestamptz) returns uuid language sql immutable parallel safe as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Creates the daily partitions of a history table from today to `days` ahead; the DEFAULT partition takes what falls
-- outside, and a gauge says when it is not empty. Rows that lie there for a day to be made move into it. A day that cannot
-- be made now, since more such rows keep coming or somebody holds them, is left for the next call: it stops no other, and
-- waits so little that all the days together stay far from the statement's time.
-- Attached, not created as a partition, so that the parent can be read and written meanwhile.
create function ensure_partitions(parent text, days integer) returns integer language plpgsql
set lock_timeout = '1s' as $$
declare
    day date;
    child text;
    low uuid;
    high uuid;
    made integer := 0;
begin
    for day in select d::date from generate_series((now() at time zone 'utc')::date, (now() at time zone 'utc')::date + days, interval '1 day') d loop
        child := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
        continue when to_regclass(child) is not null;
        low := uuid_v7_floor(day::timestamp at time zone 'utc');
        high := uuid_v7_floor((day + 1)::timestamp at time zone 'utc');
        begin
            -- A delivery is written again when it ends: with room in its page it stays there, and no index is written.
            execute format('create table %I (like %I including all) with (fillfactor = %s)', child, parent,
                case parent when 'deliveries' then 60 else 100 end);
            execute format('with strays as (delete from %I where id >= %L and id < %L returning *)
                insert into %I select * from strays', parent || '_default', low, high, child);
            execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, child, low, high);
            made := made + 1;
        exception when check_violation or lock_not_available or deadlock_detected then
            raise warning 'the partition % is not made yet: %', child, sqlerrm;
        end;
    end loop;
    return made;
end
$$;

-- A customer's URL, secret and event types (the API says /webhooks).
create table endpoints (
    account_id uuid not null references accounts (id),
    id uuid not null,
    url text not null,
    events text[] not null,
    description text,
    enabled boolean not null default true,
    secret bytea not null,
    rate_limit double precision,
    ordered boolean not null default false,
    -- Its own headers: the names, and all of them as JSON, sealed, for the values may be secrets.
    header_names text[] not null default '{}',
    sealed_headers bytea,
    disabled_reason text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    primary key (account_id, id)
);

-- The number of the last delivery that was made for an endpoint; apart from the others, since the relay, which goes on while
-- attempts are recorded, changes it all the time.
create table endpoint_numbers (
    account_id uuid not null,
    endpoint_id uuid not null,
    last_number bigint not null,
    primary key (account_id, endpoint_id),
    foreign key (account_id, endpoint_id) references endpoints (account_id, id)
) with (fillfactor = 50);

-- What the deliveries taught about an endpoint; apart from `endpoints`, since it changes with attempts.
create table endpoint_health (
    account_id uuid not null,
    endpoint_id uuid not null,
    consecutive_failures integer not null default 0,
    failing_since timestamptz,
    last_success_at timestamptz,
    opened_at timestamptz,
    primary key (account_id, endpoint_id),
    foreign key (account_id, endpoint_id) references endpoints (account_id, id)
) with (fillfactor = 50);

-- Events not yet relayed. `number` is taken after the resource's row lock, so that it follows the commit order of one
-- resource; a relay takes what is visible and compares neither numbers nor xmin across resources.
create table outbox (
    shard smallint not null,
    number bigint generated always as identity,
    account_id uuid not null,
    event_id uuid not null,
    type text not null,
    resource_id uuid not null,
    endpoint_id uuid,
    body text not null,
    created_at timestamptz not null default now(),
    primary key (shard, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

create table events (
    account_id uuid not null,
    id uuid not null,
    type text not null,
    resource_id uuid not null,
    body text not null,
    created_at timestamptz not null,
    primary key (account_id, id)
) partition by range (id);
create table events_default partition of events default;

-- One event for one endpoint. `number` rises by one per endpoint. The attempt that was acknowledged, if there was one, is a
-- part of it, for most deliveries have no other.
create table deliveries (
    account_id uuid not null,
    id uuid not null,
    endpoint_id uuid not null,
    event_id uuid not null,
    type text not null,
    number bigint not null,
    status text not null default 'pending',
    attempts integer not null default 0,
    next_attempt_at timestamptz,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    last_status_code integer,
    last_error_class text,
    acknowledged_at timestamptz,
    acknowledged_ms integer,
    response_excerpt text,
    primary key (account_id, id),
    constraint deliveries_status check (status in ('pending', 'succeeded', 'exhausted', 'cancelled'))
) partition by range (id);
create table deliveries_default partition of deliveries default;
create index deliveries_by_endpoint on deliveries (account_id, endpoint_id, id);
create index deliveries_by_event on deliveries (account_id, event_id);

-- One HTTP request for a delivery that failed; never changed.
create table attempts (
    account_id uuid not null,
    id uuid not null,
    delivery_id uuid not null,
    number integer not null,
    started_at timestamptz not null,
    duration_ms integer not null,
    status_code integer,
    error_class text,
    response_excerpt text,
    primary key (account_id, id),
    constraint attempts_error check (error_class is null or error_class in
        ('dns', 'connect', 'tls', 'timeout', 'status', 'body', 'blocked'))
) partition by range (id);
create table attempts_default partition of attempts default;
create index attempts_by_delivery on attempts (account_id, delivery_id);

select ensure_partitions('events', 8), ensure_partitions('deliveries', 8), ensure_partitions('attempts', 8);
