-- The circuit of an endpoint: closed while `opened_at` is null. While it is open the endpoint's lane is closed, until
-- `probe_at` from try to try; `probes` counts those that failed. `slow` is set by a timeout and cleared by a success.
alter table endpoint_health
    add column slow boolean not null default false,
    add column probes integer not null default 0,
    add column probe_at timestamptz;
create index endpoint_health_open on endpoint_health (opened_at) where opened_at is not null;

-- What an account is told of: newest first by id.
create table notifications (
    account_id uuid not null references accounts (id),
    id uuid not null,
    type text not null,
    title text not null,
    body text not null,
    resource jsonb,
    read_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (account_id, id)
);
