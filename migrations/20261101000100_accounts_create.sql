-- Every row belongs to an account, and account_id leads every key that grows.
create table accounts (
    id uuid primary key,
    name text not null,
    plan text not null default 'self-hosted',
    created_at timestamptz not null default now(),
    constraint accounts_name check (length(name) between 1 and 200)
);

create table api_keys (
    account_id uuid not null references accounts (id),
    id uuid not null,
    name text not null,
    prefix text not null,
    hash bytea not null,
    scopes text[] not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (account_id, id),
    constraint api_keys_scopes check (scopes <@ array['read', 'write', 'generate', 'send', 'admin', '*'])
);
create unique index api_keys_hash on api_keys (hash);

-- A connected mailbox or profile. `settings` is public, `secrets` is sealed (shared/src/secrets.rs). The mailbox of the
-- installation's settings is `from_settings`; when they name another one, it takes the place of this one.
create table channel_accounts (
    account_id uuid not null references accounts (id),
    id uuid not null,
    channel text not null,
    address text not null,
    display_name text,
    status text not null default 'connected',
    settings jsonb not null default '{}',
    secrets bytea not null,
    from_settings boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (account_id, id),
    constraint channel_accounts_channel check (channel in ('email', 'instagram', 'twitter')),
    constraint channel_accounts_status check (status in ('connected', 'paused', 'disconnected'))
);
create unique index channel_accounts_address on channel_accounts (account_id, channel, address);
create index channel_accounts_by_address on channel_accounts (channel, address);

-- Written in the transaction of the operation it records.
create table api_audit_log (
    account_id uuid not null,
    id uuid not null,
    api_key_id uuid,
    user_id uuid not null,
    action text not null,
    resource_type text not null,
    resource_id uuid,
    metadata jsonb not null default '{}',
    request_id text not null,
    ip inet,
    created_at timestamptz not null default now(),
    primary key (account_id, id)
);
