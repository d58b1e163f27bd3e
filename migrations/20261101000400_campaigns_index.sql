-- The one definition of "never to be written to": the address, its domain, or a handle.
create function is_suppressed(p_account_id uuid, p_email text, p_instagram text, p_twitter_user_id text, p_twitter text)
returns boolean language sql stable parallel safe as $$
    select exists (
        select 1
        from (values ('email', p_email), ('domain', split_part(p_email, '@', 2)), ('instagram', p_instagram),
            ('twitter', p_twitter_user_id), ('twitter', p_twitter)) as v(kind, value)
        join suppressions s on s.account_id = p_account_id and s.kind = v.kind and s.value = v.value)
$$;

-- Whether a message waits for its campaign to be resumed: approved steps do, direct sends do not.
create function is_paused_step(p_account_id uuid, p_campaign_id uuid, p_enrolment_id uuid, p_status text)
returns boolean language sql stable parallel safe as $$
    select p_enrolment_id is not null and p_status in ('approved', 'scheduled') and exists (
        select 1 from campaigns a where a.account_id = p_account_id and a.id = p_campaign_id and a.status = 'paused')
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
-- What waits for its turn under one.
create index messages_waiting on messages (account_id, campaign_id, id) where status in ('approved', 'scheduled');

-- How long a message must wait before it looks again for a place under its campaign's daily cap; null when the campaign may
-- send now. A place is free a day after the message that took it was sent, and again every day after that: the n-th of the
-- messages that wait, by id, looks when the n-th place is free. One whose turn is on a later day looks every day too, for some
-- before it may not leave at all; it comes a hundredth of a day late, so that those whose turn it is are first. The plan must
-- not depend on statistics, for the table may never have been analysed.
create function cap_wait_ms(p_account_id uuid, p_campaign_id uuid, p_message_id uuid, p_cap integer, p_day_ms bigint)
returns bigint language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
    v_ahead bigint;
begin
    perform from messages
    where account_id = p_account_id and campaign_id = p_campaign_id
        and sending_at > now() - p_day_ms * interval '1 millisecond'
    order by sending_at desc offset p_cap - 1 limit 1;
    if not found then
        return null;
    end if;
    select count(*) into v_ahead from (
        select from messages
        where account_id = p_account_id and campaign_id = p_campaign_id and status in ('approved', 'scheduled')
            and id < p_message_id and coalesce(due_at, now()) <= now()
        limit 10000) w;
    return (
        select ceil(extract(epoch from sending_at - now()) * 1000)::int8 + p_day_ms
            + case when v_ahead < p_cap then 0 else p_day_ms / 100 end
        from messages
        where account_id = p_account_id and campaign_id = p_campaign_id
            and sending_at > now() - p_day_ms * interval '1 millisecond'
        order by sending_at desc offset p_cap - 1 - v_ahead % p_cap limit 1);
end
$$;

-- What names a contact that has no address, and one that has no handle either.
create index contacts_by_entry on contacts (account_id, (provenance ->> 'place_id')) where provenance ->> 'place_id' is not null;
create index contacts_by_twitter_handle on contacts (account_id, twitter_handle) where twitter_handle is not null;
