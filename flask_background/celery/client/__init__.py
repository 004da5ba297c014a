"""The sending side: from an enqueued item to a message and its record."""
