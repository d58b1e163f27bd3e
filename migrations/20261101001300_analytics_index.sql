-- What was sent in a time, and what was answered, over all campaigns.
create index messages_by_sent on messages (account_id, sent_at) where sent_at is not null;
create index messages_by_answer on messages (account_id, created_at) where direction = 'inbound';
