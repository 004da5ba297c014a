"""Items in the app's own log lines."""
