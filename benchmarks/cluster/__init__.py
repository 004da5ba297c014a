"""The cost of items for a Celery cluster, beside Celery as Flask's documentation has it."""
