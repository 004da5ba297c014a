"""The monitor of an app's items, for people: pages, commands and metrics look and act through it."""
