"""The durable record of items on this machine: one folder, one SQLite file, all processes of the app.

::

    journal.sqlite3     the record (database.py, store.py; schema.sql)
    turn                whose turn it is to write (turn.py)
    owners/             a file and a FIFO for each process that may run items (owner.py, bells.py)
    uploads/            the files that items have taken over
"""
