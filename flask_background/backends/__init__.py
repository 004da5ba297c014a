"""Where an enqueued item goes."""
