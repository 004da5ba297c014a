"""What an app's items do, for people: pages, commands and metrics read it here, and act through it."""
