"""The look at items, tasks and processes that pages, commands and metrics share, and their actions."""
