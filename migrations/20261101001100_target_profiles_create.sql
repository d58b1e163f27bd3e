-- Whom a campaign looks for: each profile is a search of its own.
create table target_profiles (
    account_id uuid not null,
    id uuid not null,
    campaign_id uuid not null,
    name text not null,
    keywords text[] not null default '{}',
    venue_types text[] not null default '{}',
    titles text[] not null default '{}',
    location text,
    radius_miles double precision not null,
    notes text,
    created_at timestamptz not null default now(),
    primary key (account_id, id),
    foreign key (account_id, campaign_id) references campaigns (account_id, id),
    constraint target_profiles_name check (length(name) between 1 and 200),
    constraint target_profiles_radius check (radius_miles between 1 and 100)
);
create index target_profiles_by_campaign on target_profiles (account_id, campaign_id, id);

-- What a search looks for is now one or more sets of criteria, each searched for itself.
update discovery_jobs set criteria = jsonb_build_array(criteria) where jsonb_typeof(criteria) = 'object';
alter table discovery_jobs add constraint discovery_jobs_criteria check (jsonb_typeof(criteria) = 'array');
