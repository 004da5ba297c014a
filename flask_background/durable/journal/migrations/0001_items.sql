-- Version 1: items and schedules. "if not exists", because a journal from before the versions has these tables.

-- One row for each durable item. Times are time.time(). A text is JSON unless its name says what it is.
create table if not exists item (
    number integer primary key,          -- so that new rows lie together, and a commit writes few pages
    id text not null unique,
    task text not null,                  -- its name; only registered tasks are run
    executor text not null,
    options text not null,
    payload text not null,               -- the arguments
    uploads integer not null default 0,  -- whether files of the item lie beside the journal
    state text,
    key text,
    status text not null
        check (status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    owner text,                          -- the process that has claimed it
    fence integer not null default 0,    -- counts claims: every later write names its own
    attempt integer not null default 0,  -- counts runs
    crashes integer not null default 0,  -- counts processes that ended in its runs
    max_crashes integer not null,
    cancel integer not null default 0,   -- somebody wants the run to end
    due real not null,
    enqueued real not null,
    started real,
    finished real,
    progress text,
    result text,
    error text,
    reason text                          -- why it was parked
);

create unique index if not exists item_key on item (task, key)
    where key is not null and status in ('queued', 'running');
create index if not exists item_free on item (executor, due) where status = 'queued' and owner is null;
create index if not exists item_outbox on item (attempt, number)
    where executor = 'celery:outbox' and status in ('queued', 'cancelled') and owner is null;
create index if not exists item_owned on item (owner) where owner is not null;
create index if not exists item_finished on item (finished) where finished is not null;

-- The next time of each periodic task.
create table if not exists schedule (
    name text primary key,
    spec text not null,
    next real not null
) without rowid;
