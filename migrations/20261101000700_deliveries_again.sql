-- Deliveries that are made again. `again` says that somebody asked for it, so that its latency is not the event's;
-- `retries_from` is how many attempts there were when its schedule of retries last began, and `job_id` the job of its next
-- attempt, while there is one.
alter table deliveries
    add column again boolean not null default false,
    add column retries_from integer not null default 0,
    add column job_id uuid;

-- The endpoint that a test event is for: nobody else hears of it, and it is not replayed.
alter table events add column endpoint_id uuid;

-- What was signed with before, and until when it still is beside the present secret.
alter table endpoints
    add column old_secret bytea,
    add column old_secret_until timestamptz;

-- What the attempts of pending deliveries need, of those that are pending still. A function of its own settings, for its plan
-- outlives the time when the tables were empty and reading them whole was cheapest. Each lateral query's limit keeps it apart,
-- so that it is looked up row by row.
create function deliveries_due(p_accounts uuid[], p_ids uuid[])
returns table (account_id uuid, id uuid, endpoint_id uuid, attempts integer, retries_from integer, url text, sealed_secret bytea,
    sealed_old_secret bytea, sealed_headers bytea, open boolean, body text, event_created_at timestamptz, read_at timestamptz)
language plpgsql stable set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    return query
    select d.account_id, d.id, d.endpoint_id, d.attempts, d.retries_from, e.url, e.secret, e.old_secret, e.sealed_headers, e.open, v.body,
        case when not d.again then v.created_at end, clock_timestamp()
    from unnest(p_accounts, p_ids) as t(account_id, id)
    cross join lateral (
        select * from deliveries d
        where d.account_id = t.account_id and d.id = t.id limit 1) d
    cross join lateral (
        select url, secret, case when old_secret_until > clock_timestamp() then old_secret end as old_secret, sealed_headers,
            enabled and deleted_at is null as open
        from endpoints e
        where e.account_id = d.account_id and e.id = d.endpoint_id limit 1) e
    left join lateral (
        select body, created_at from events v
        where v.account_id = d.account_id and v.id = d.event_id limit 1) v on true
    where d.status = 'pending';
end
$$;

-- An endpoint's events of a time delivered once more, by a job that goes through them batch by batch. `scanned_to` is the
-- last event that was looked at; it moves in the transaction that makes the batch's deliveries.
create table replays (
    account_id uuid not null,
    id uuid not null,
    endpoint_id uuid not null,
    status text not null default 'queued',
    since timestamptz not null,
    until timestamptz not null,
    events text[] not null,
    failed_only boolean not null,
    scanned_to uuid not null,
    scanned bigint not null default 0,
    created bigint not null default 0,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    primary key (account_id, id),
    foreign key (account_id, endpoint_id) references endpoints (account_id, id),
    constraint replays_status
        check (status in ('queued', 'running', 'succeeded', 'failed', 'endpoint_disabled', 'endpoint_deleted')),
    constraint replays_finished check ((finished_at is null) = (status in ('queued', 'running')))
);
create unique index replays_unfinished on replays (account_id, endpoint_id) where status in ('queued', 'running');
