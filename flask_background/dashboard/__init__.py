"""Pages about an app's items: a dashboard for the people who run the app, and progress for its visitors."""
