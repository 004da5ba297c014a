"""What an item costs that goes to a Celery cluster, beside Celery as Flask's documentation has it."""
