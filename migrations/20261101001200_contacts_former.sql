-- What a contact was known by before it changed, each with its kind before it: an erasure reaches that too.
alter table contacts add column former text[] not null default '{}';
alter table contacts add constraint contacts_erased_former check (erased_at is null or former = '{}');

-- Where a message went: what comes back from there says nothing of another address that its contact has by then.
alter table messages add column recipient text;
create index messages_by_recipient on messages (account_id, recipient) where recipient is not null;
