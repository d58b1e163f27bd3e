-- How many requests a key has made in each of its windows. Unlogged: a crash of the server starts every window anew, and a
-- request costs no write of the log. One row for each key that was ever used; each request locks it, so that the limits
-- hold over all replicas.
create unlogged table rate_windows (
    key_id uuid primary key,
    -- When the last request came, and whether it was refused.
    at timestamptz not null,
    refused boolean not null,
    -- Of each window, in the order in which the program knows them: when it began, and how many requests it has had.
    starts timestamptz[] not null,
    counts integer[] not null
) with (fillfactor = 50);
