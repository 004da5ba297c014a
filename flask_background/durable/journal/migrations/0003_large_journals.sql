-- Version 3: no question scans the table, however many items the journal has.

-- The free items of one task on one executor, in the order in which they are due.
drop index item_free;
create index item_free on item (executor, task, due) where status = 'queued' and owner is null;

-- The items of one task with one status, in the order in which they were entered.
create index item_listed on item (task, status);

-- The rows of the outbox that have ended.
create index outbox_finished on outbox (finished) where finished is not null;
