-- Version 2: what waits to be forwarded to another backend has a table of its own.

-- One row for each item that waits. Times are time.time().
create table outbox (
    number integer primary key,
    id text not null unique,
    task text not null,
    payload text not null,               -- the arguments
    options text not null,               -- what else the backend has to know
    state text,
    status text not null
        check (status in ('queued', 'cancelled', 'failed')),
    owner text,                          -- the process that is forwarding it
    fence integer not null default 0,    -- counts claims: every later write names its own
    attempts integer not null default 0, -- counts how often the backend has refused it
    cancel integer not null default 0,   -- somebody wants it to end
    due real,                            -- when it is to start, if not at once
    enqueued real not null,
    finished real,
    reason text                          -- why it has failed
);

create index outbox_waiting on outbox (attempts, number)
    where status in ('queued', 'cancelled') and owner is null;
create index outbox_owned on outbox (owner) where owner is not null;

-- Such items were rows of the table item before, of an executor of this name.
insert into outbox (
    id, task, payload, options, state, status, owner, fence, attempts, cancel, due, enqueued, finished, reason
)
select
    id, task, payload,
    substr(options, 1, length(options) - 1) || ', "max_crashes": ' || max_crashes || '}',
    state, status, owner, fence, attempt, cancel, case when due > enqueued then due end, enqueued, finished, reason
from item
where executor = 'celery:outbox' and status in ('queued', 'cancelled', 'failed')
order by number;

delete from item where executor = 'celery:outbox';
drop index item_outbox;
