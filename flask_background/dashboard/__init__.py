"""Pages about an app's items: a dashboard for the people who run the app, and progress for its visitors."""

from __future__ import annotations

from flask_background.dashboard.blueprint import create_dashboard
from flask_background.dashboard.status import create_status

__all__ = ["create_dashboard", "create_status"]
