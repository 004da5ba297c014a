"""The look at an app's items, tasks and processes that pages, commands and metrics share, and their actions."""
