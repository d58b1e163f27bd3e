-- draft -> active <-> paused, active -> completed, anything -> deleted (shared/src/domain/campaign.rs).
create table campaigns (
    account_id uuid not null references accounts (id),
    id uuid not null,
    name text not null,
    objective_type text not null,
    description text,
    location text,
    latitude double precision,
    longitude double precision,
    radius_miles double precision not null default 25,
    venue_types text[] not null default '{}',
    keywords text[] not null default '{}',
    max_results integer not null default 50,
    outreach_channels text[] not null default '{email}',
    followup_days integer[] not null default '{3,7,14}',
    approval text not null default 'manual',
    sender jsonb not null default '{}',
    brief text,
    tone text,
    agent_id text,
    send_window jsonb,
    daily_cap integer,
    tracking jsonb not null default '{"opens": false, "clicks": false}',
    status text not null default 'draft',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    activated_at timestamptz,
    completed_at timestamptz,
    deleted_at timestamptz,
    primary key (account_id, id),
    constraint campaigns_status check (status in ('draft', 'active', 'paused', 'completed', 'deleted')),
    constraint campaigns_approval check (approval in ('manual', 'auto')),
    constraint campaigns_channels check (outreach_channels <@ array['email', 'instagram', 'twitter']),
    constraint campaigns_deleted check ((status = 'deleted') = (deleted_at is not null))
);
create index campaigns_active on campaigns (activated_at) where status = 'active';

create table contacts (
    account_id uuid not null references accounts (id),
    id uuid not null,
    email text,
    first_name text,
    last_name text,
    company text,
    title text,
    contact_type text,
    instagram_handle text,
    twitter_handle text,
    twitter_user_id text,
    phone text,
    website text,
    location text,
    latitude double precision,
    longitude double precision,
    tags text[] not null default '{}',
    custom jsonb not null default '{}',
    source text not null default 'api',
    provenance jsonb not null default '{}',
    status text not null default 'active',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    primary key (account_id, id),
    constraint contacts_status check (status in ('active', 'bounced', 'unsubscribed')),
    constraint contacts_email check (email is null or email = lower(email))
);
-- A soft-deleted contact keeps its address, so that a later create brings it back to life.
create unique index contacts_by_email on contacts (account_id, email) where email is not null;
create index contacts_by_instagram on contacts (account_id, instagram_handle) where instagram_handle is not null;
create index contacts_by_twitter on contacts (account_id, twitter_user_id) where twitter_user_id is not null;

-- One conversation per contact and campaign; all channels in one order.
create table conversations (
    account_id uuid not null,
    id uuid not null,
    campaign_id uuid not null,
    contact_id uuid not null,
    status text not null default 'open',
    last_channel text,
    last_direction text,
    last_message_at timestamptz,
    unread_count integer not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (account_id, id),
    foreign key (account_id, campaign_id) references campaigns (account_id, id),
    foreign key (account_id, contact_id) references contacts (account_id, id),
    constraint conversations_status check (status in ('open', 'replied', 'closed')),
    constraint conversations_direction check (last_direction is null or last_direction in ('inbound', 'outbound'))
);
create unique index conversations_once on conversations (account_id, campaign_id, contact_id);
create index conversations_by_contact on conversations (account_id, contact_id);

-- One contact's passage through one campaign. `listed` waits for the campaign's activation. `order_number` counts the
-- sending marks and replies under this row's lock: the lower one came first.
create table enrolments (
    account_id uuid not null,
    id uuid not null,
    campaign_id uuid not null,
    contact_id uuid not null,
    conversation_id uuid,
    channel text,
    channel_account_id uuid,
    status text not null default 'listed',
    stop_reason text,
    order_number bigint not null default 0,
    replied_order bigint,
    started_at timestamptz,
    last_sent_at timestamptz,
    last_sent_step integer,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    ended_at timestamptz,
    primary key (account_id, id),
    foreign key (account_id, campaign_id) references campaigns (account_id, id),
    foreign key (account_id, contact_id) references contacts (account_id, id),
    constraint enrolments_status check (status in ('listed', 'active', 'stopped', 'finished')),
    constraint enrolments_channel check (channel is null or channel in ('email', 'instagram', 'twitter')),
    constraint enrolments_active check (status <> 'active' or (conversation_id is not null and channel is not null)),
    constraint enrolments_stop check ((status = 'stopped') = (stop_reason is not null)),
    constraint enrolments_stop_reason check (stop_reason is null or stop_reason in
        ('replied', 'bounced', 'opted_out', 'suppressed', 'failed', 'no_channel', 'campaign_deleted', 'contact_deleted'))
);
create unique index enrolments_once on enrolments (account_id, campaign_id, contact_id);
create index enrolments_by_status on enrolments (account_id, campaign_id, status, id);
create index enrolments_by_contact on enrolments (account_id, contact_id);

-- One inbound or outbound text. `rfc_message_id` is the Message-ID on the wire.
create table messages (
    account_id uuid not null,
    id uuid not null,
    conversation_id uuid not null,
    campaign_id uuid not null,
    contact_id uuid not null,
    enrolment_id uuid,
    step integer,
    direction text not null,
    channel text not null,
    channel_account_id uuid,
    status text not null,
    subject text,
    content text not null,
    variables jsonb not null default '{}',
    rfc_message_id text,
    in_reply_to text,
    order_number bigint,
    crossed boolean not null default false,
    -- `campaign_paused` is not stored: the campaign's row says it.
    blocked_reason text,
    next_attempt_at timestamptz,
    due_at timestamptz,
    error text,
    model text,
    intent text,
    sentiment text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    approved_at timestamptz,
    sending_at timestamptz,
    sent_at timestamptz,
    -- What arrived or was opened stays so when it is answered or comes back later.
    delivered_at timestamptz,
    opened_at timestamptz,
    primary key (account_id, id),
    foreign key (account_id, conversation_id) references conversations (account_id, id),
    constraint messages_channel check (channel in ('email', 'instagram', 'twitter')),
    constraint messages_direction check (direction in ('inbound', 'outbound')),
    constraint messages_status check (status in ('drafting', 'pending', 'approved', 'scheduled', 'sending', 'sent',
        'delivered', 'opened', 'replied', 'bounced', 'failed', 'unknown', 'rejected', 'cancelled', 'received')),
    constraint messages_received check ((status = 'received') = (direction = 'inbound')),
    constraint messages_sent check (status not in ('sent', 'delivered', 'opened', 'replied') or sent_at is not null),
    constraint messages_delivered check (status <> 'delivered' or delivered_at is not null),
    constraint messages_opened check (status <> 'opened' or opened_at is not null),
    constraint messages_sending check (status not in ('sending', 'sent', 'unknown') or sending_at is not null),
    constraint messages_blocked check (blocked_reason is null or blocked_reason in ('outside_window', 'daily_cap',
        'mailbox_paused', 'suppressed', 'no_account', 'unresolved_variables', 'cold_dm_not_allowed',
        'guardrail'))
);
-- One message per step of an enrolment: this, not a job's key, is what makes a step happen once.
create unique index messages_once_per_step on messages (account_id, enrolment_id, step) where step is not null;
create unique index messages_by_rfc_id on messages (account_id, rfc_message_id) where rfc_message_id is not null;
create index messages_by_conversation on messages (account_id, conversation_id, id);
create index messages_by_campaign on messages (account_id, campaign_id, status);
create index messages_pending on messages (account_id, id) where status = 'pending';

-- Every mail that arrived, once per mailbox and Message-ID; `message_id` is null while it matches no conversation.
create table inbound_emails (
    account_id uuid not null,
    id uuid not null,
    channel_account_id uuid not null,
    rfc_message_id text not null,
    from_address text,
    subject text,
    kind text not null,
    message_id uuid,
    raw bytea not null,
    received_at timestamptz not null default now(),
    primary key (account_id, id),
    constraint inbound_emails_kind check (kind in ('reply', 'auto_reply', 'bounce', 'unmatched'))
);
create unique index inbound_emails_once on inbound_emails (account_id, channel_account_id, rfc_message_id);

-- An address or domain never to be written to. The value is kept in clear until the contact is erased.
create table suppressions (
    account_id uuid not null references accounts (id),
    id uuid not null,
    kind text not null,
    value text not null,
    reason text not null,
    created_at timestamptz not null default now(),
    primary key (account_id, id),
    constraint suppressions_kind check (kind in ('email', 'domain', 'instagram', 'twitter')),
    constraint suppressions_reason check (reason in ('bounced', 'opted_out', 'complained', 'manual'))
);
create unique index suppressions_once on suppressions (account_id, kind, value);

create table discovery_jobs (
    account_id uuid not null references accounts (id),
    id uuid not null,
    campaign_id uuid,
    criteria jsonb not null,
    status text not null default 'queued',
    found integer not null default 0,
    new integer not null default 0,
    duplicates integer not null default 0,
    suppressed integer not null default 0,
    by_source jsonb not null default '{}',
    contact_ids uuid[] not null default '{}',
    error text,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    primary key (account_id, id),
    constraint discovery_jobs_status check (status in ('queued', 'running', 'completed', 'failed'))
);
create index discovery_jobs_by_campaign on discovery_jobs (account_id, campaign_id) where campaign_id is not null;

-- A directory of venues that discovery searches; the same for every account, loaded from a CSV file.
create table places (
    id text primary key,
    name text not null,
    venue_type text not null,
    email text,
    phone text,
    website text,
    instagram_handle text,
    twitter_handle text,
    street text,
    location text not null,
    latitude double precision not null,
    longitude double precision not null,
    keywords text[] not null default '{}',
    description text not null default ''
);
create index places_position on places (latitude, longitude);
