"""The running side: from a message in a Celery worker to the end of its item."""
