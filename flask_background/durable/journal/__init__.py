"""The durable record of items on this machine: one folder, one SQLite file, all processes of the app.

::

    journal.sqlite3     the record (database.py, statements.py; its tables: migrations/)
    turn                the lock of the process that writes (write_lock.py)
    owners/             a file and a FIFO for each process that may run items (process_lock.py, wakeups.py)
    loads/              what processes have in memory, written when one of them asks (loads.py)
    paused              changes when a task or an executor is paused or resumed (pauses.py)
    uploads/            the files that items have taken over
"""
