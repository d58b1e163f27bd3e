-- What nobody has read yet, when it is listed or all of it is marked as read.
create index notifications_unread on notifications (account_id, id) where read_at is null;
-- What is old enough to go.
create index notifications_by_age on notifications (created_at);
-- Whether an account was told of an endpoint's expired deliveries today.
create index notifications_expired on notifications (account_id, (resource ->> 'id'), id) where type = 'webhook.expired';
alter table notifications alter column resource set not null;

-- Mail that matched no conversation, as it is listed.
create index inbound_emails_listed on inbound_emails (account_id, id) where kind = 'unmatched';
