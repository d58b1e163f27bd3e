-- The plainest durable queue there is, in batches of 100: the limit that the database itself sets. Each statement stands
-- under its name.

-- name: drop
drop table if exists reference

-- name: create
create table reference (
    id bigint generated always as identity primary key,
    state text not null default 'ready',
    run_at timestamptz not null default now(),
    payload text not null
)

-- name: index
create index reference_ready on reference (run_at, id) where state = 'ready'

-- name: fill
insert into reference (payload) select $2 from generate_series(1, $1)

-- name: vacuum
vacuum analyze reference

-- name: claim
with claimed as (
    select id from reference where state = 'ready' order by run_at, id limit 100 for update skip locked
)
update reference r set state = 'running' from claimed c where r.id = c.id returning r.id, r.payload

-- name: done
update reference set state = 'done' where id = any ($1)

-- name: drop plain
drop table if exists plain

-- name: create plain
create table plain (
    id uuid primary key,
    tenant text not null,
    lane text not null,
    grp text,
    payload text not null
)

-- name: insert plain
insert into plain (id, tenant, lane, grp, payload) select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
