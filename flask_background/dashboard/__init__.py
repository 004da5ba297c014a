"""Pages on which an app's operators see its items, tasks, schedules and processes, and act on them."""

from flask_background.dashboard.blueprint import create_dashboard

__all__ = ["create_dashboard"]
