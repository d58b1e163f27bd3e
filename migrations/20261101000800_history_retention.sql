-- Drops the partition of a day. A drop locks the whole table: it waits for everybody who uses it, and whoever comes meanwhile
-- waits behind it. So it waits for a moment only, and gives up before the server would look for a deadlock: of two that wait
-- for each other it is the drop that gives way. False: it did, and the partition is there still.
create function drop_partition(partition text) returns boolean language plpgsql
set lock_timeout = '200ms' as $$
begin
    execute format('drop table if exists %I', partition);
    return true;
exception when lock_not_available or deadlock_detected then
    return false;
end
$$;

-- Ends the deliveries in some blocks of a partition that are older than `before` and still pending, and says how many of
-- whom. A block range is read without an index: no index on the status is kept, since every delivery would pay for it
-- twice. A row that is being recorded just now is left for the next call.
create function expire_deliveries(partition text, before timestamptz, first_block bigint, blocks integer)
returns table (account_id uuid, endpoint_id uuid, deliveries bigint) language plpgsql as $$
begin
    return query execute format('
        with expired as (
            update %1$I set status = ''cancelled'', next_attempt_at = null, finished_at = now()
            where ctid = any (array(
                select ctid from %1$I
                where status = ''pending'' and id < $1 and ctid >= $2 and ctid < $3
                for no key update skip locked))
            returning account_id, endpoint_id
        )
        select account_id, endpoint_id, count(*) from expired group by account_id, endpoint_id order by account_id, endpoint_id',
        partition)
    using uuid_v7_floor(before), format('(%s,0)', first_block)::tid, format('(%s,0)', first_block + blocks)::tid;
end
$$;

-- Deletes up to `rows` rows of a history table that are older than `before` and lie outside all days.
create function delete_strays(parent text, before timestamptz, rows integer) returns integer language plpgsql as $$
declare
    deleted integer;
begin
    execute format('delete from %1$I where ctid = any (array(
        select ctid from %1$I where id < $1 limit $2 for update skip locked))', parent || '_default')
    using uuid_v7_floor(before), rows;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

-- A contact that was erased keeps its id, so that what was counted stays counted, and nothing else. It stays deleted.
alter table contacts add column erased_at timestamptz;
alter table contacts add constraint contacts_erased check (erased_at is null or (deleted_at is not null
    and coalesce(email, first_name, last_name, company, title, contact_type, instagram_handle, twitter_handle, twitter_user_id,
        phone, website, location) is null
    and latitude is null and longitude is null and tags = '{}' and custom = '{}' and provenance = '{}'));

-- What of an address is kept once its contact is erased: enough to know it again, not enough to write to it. With the account
-- in it, the same address looks different in another account.
create function suppression_hash(p_account_id uuid, p_value text) returns text language sql stable strict parallel safe as $$
    select 'sha256:' || encode(sha256(convert_to(p_account_id::text || ':' || p_value, 'UTF8')), 'hex')
$$;

alter table suppressions drop constraint suppressions_reason;
alter table suppressions add constraint suppressions_reason
    check (reason in ('bounced', 'opted_out', 'complained', 'manual', 'erased'));

create or replace function is_suppressed(p_account_id uuid, p_email text, p_instagram text, p_twitter_user_id text, p_twitter text)
returns boolean language sql stable parallel safe as $$
    select exists (
        select 1
        from (values ('email', p_email), ('domain', split_part(p_email, '@', 2)), ('instagram', p_instagram),
            ('twitter', p_twitter_user_id), ('twitter', p_twitter)) as v(kind, value)
        join suppressions s on s.account_id = p_account_id and s.kind = v.kind
            and s.value in (v.value, suppression_hash(p_account_id, v.value)))
$$;

-- The mails of a contact that is erased: those that became its messages or are about them, and those that matched nothing.
create index inbound_emails_by_message on inbound_emails (account_id, message_id) where message_id is not null;
create index inbound_emails_unmatched on inbound_emails (account_id, from_address) where kind = 'unmatched';
