-- Deliveries that are made again. `again` says that somebody asked for it, so that its latency is not the event's;
-- `retries_from` is how many attempts there were when its schedule of retries last began, and `job_id` the job of its next
-- attempt, while it waits for one after another.
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
