"""Items for a Celery cluster. Imported only where Celery is named.

Where they are enqueued: ``backend`` (the contract), ``cluster`` (the Celery app), ``envelope`` (what a
message says), ``records`` (what is known of an item everywhere). Where that cannot be reached: ``breaker``
(who tries, and when), ``wayout`` (where items go instead), ``sender`` (how they go on). In a worker:
``worker`` (its start), ``run`` (one message), ``owner`` (the item while it runs), ``stopflag`` (its end).
"""
