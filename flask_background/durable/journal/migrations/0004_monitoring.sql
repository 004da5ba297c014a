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
    error text,                          -- as in the table item
    reason text                          -- as in the table item
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

-- How many items of each task the table item has that have ended.
create table ended (
    task text not null,
    status text not null,
    items integer not null,
    primary key (task, status)
) without rowid;
insert into ended select task, status, count(*) from item where finished is not null group by task, status;

-- The triggers count whatever statement changes an item, also one of an older version's code. They look at
-- the column finished because it is set and cleared at no other time; the statement that begins a run would
-- pay for a look at the column status.
create trigger item_ended after update of finished on item
when old.finished is null and new.finished is not null
begin
    insert into ended values (new.task, new.status, 1)
    on conflict do update set items = items + 1;

    -- The numbers of the buckets are those of BUCKETS in core/buckets.py.
    insert into tally
    select
        cast(new.finished / 60 as integer), new.task, new.status,
        case when wait <= 0.005 then 0 when wait <= 0.01 then 1
            when wait <= 0.025 then 2 when wait <= 0.05 then 3
            when wait <= 0.1 then 4 when wait <= 0.25 then 5 when wait <= 0.5 then 6
            when wait <= 1 then 7 when wait <= 2.5 then 8 when wait <= 5 then 9
            when wait <= 10 then 10 when wait <= 30 then 11 when wait <= 60 then 12
            when wait <= 300 then 13 when wait <= 1800 then 14
            when wait <= 7200 then 15 else 16 end,
        case when run is null then -1 when run <= 0.005 then 0 when run <= 0.01 then 1
            when run <= 0.025 then 2 when run <= 0.05 then 3 when run <= 0.1 then 4
            when run <= 0.25 then 5 when run <= 0.5 then 6 when run <= 1 then 7
            when run <= 2.5 then 8 when run <= 5 then 9 when run <= 10 then 10
            when run <= 30 then 11 when run <= 60 then 12 when run <= 300 then 13
            when run <= 1800 then 14 when run <= 7200 then 15 else 16 end,
        1, wait, coalesce(run, 0)
    from (
        select
            max(0, iif(old.status = 'running', new.started, new.finished) - new.due) as wait,
            iif(old.status = 'running', max(0, new.finished - new.started), null) as run
    )
    where true
    on conflict do update set
        items = items + 1,
        wait_seconds = wait_seconds + excluded.wait_seconds,
        run_seconds = run_seconds + excluded.run_seconds;
end;

-- An operator's retry: the last run of the item becomes one of its earlier runs.
create trigger item_retried after update of finished on item
when old.finished is not null and new.finished is null
begin
    update ended set items = items - 1 where task = old.task and status = old.status;
    insert into ended_run (id, attempt, started, finished, how, error, reason)
    select old.id, old.attempt, old.started, old.finished, old.status, old.error, old.reason
    where old.started is not null and old.status in ('failed', 'cancelled');
end;

create trigger item_deleted after delete on item
begin
    update ended set items = items - 1
    where task = old.task and status = old.status and old.finished is not null;
    delete from ended_run where id = old.id;
end;

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
