-- The one definition of "never to be written to": the address, its domain, or a handle.
create function is_suppressed(p_account_id uuid, p_email text, p_instagram text, p_twitter_user_id text, p_twitter text)
returns boolean language sql stable parallel safe as $$
    select exists (
        select 1
        from (values ('email', p_email), ('domain', split_part(p_email, '@', 2)), ('instagram', p_instagram),
            ('twitter', p_twitter_user_id), ('twitter', p_twitter)) as v(kind, value)
        join suppressions s on s.account_id = p_account_id and s.kind = v.kind and s.value = v.value)
$$;

-- The load of a mailbox, when one is chosen.
create index enrolments_by_mailbox on enrolments (account_id, channel_account_id) where status = 'active';
-- What waits to be sent from a mailbox, when another one takes its place.
create index messages_by_mailbox on messages (account_id, channel_account_id)
    where status in ('drafting', 'pending', 'approved', 'scheduled');
-- What may have been left behind by a job that died.
create index messages_on_the_way on messages (sending_at) where status = 'sending';
create index discovery_jobs_open on discovery_jobs (created_at) where status in ('queued', 'running');
-- What counts under a daily cap.
create index messages_by_sending on messages (account_id, campaign_id, sending_at) where sending_at is not null;
-- What names a contact that has no address, and one that has no handle either.
create index contacts_by_entry on contacts (account_id, (provenance ->> 'place_id')) where provenance ->> 'place_id' is not null;
create index contacts_by_twitter_handle on contacts (account_id, twitter_handle) where twitter_handle is not null;
