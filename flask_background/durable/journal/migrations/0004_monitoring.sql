-- Version 4: what pages, commands and metrics show, and pauses.

alter table item add column description text;    -- a short text of the app about the item, no JSON
alter table outbox add column description text;

-- One row for each run of an item but its last, whose times and error the item itself has.
create table ended_run (
    number integer primary key,
    id text not null,                    -- the item
    attempt integer not null,            -- the number of the run; an operator's retry begins anew
    started real,
    finished real not null,
    how text not null
        check (how in ('failed', 'crashed', 'interrupted', 'cancelled')),
    error text                           -- as in the table item
);
create index ended_run_of on ended_run (id);

-- How many items ended, by minute, task and final status, and by how long they waited and ran.
create table tally (
    minute integer not null,             -- time.time() // 60 of the end
    task text not null,
    status text not null,
    waited integer not null,             -- the number of the bucket of seconds between due and the last run
    ran integer not null,                -- the number of the bucket of seconds of the last run; -1: no run
    items integer not null,
    wait_seconds real not null,          -- the sums
    run_seconds real not null,
    primary key (minute, task, status, waited, ran)
) without rowid;

-- The tasks and executors whose durable items wait.
create table pause (
    kind text not null
        check (kind in ('task', 'executor')),
    name text not null,
    since real not null,
    by text,                             -- who has paused it, for people
    primary key (kind, name)
) without rowid;

alter table schedule add column last real;       -- when the task was enqueued last
alter table schedule add column last_id text;    -- the item of that time
