"""The settings. Mail goes where the environment says, else to the demo's own server."""

from __future__ import annotations

import os

MAX_CONTENT_LENGTH = 32 * 1024 * 1024
MAX_FORM_PARTS = 24  # pictures in one upload

# Each thread may hold one decoded picture: four of the largest are 800 MB.
BACKGROUND_WORKERS = 4

# A letter links to the host that the form was sent to, so a made-up Host header must not pass.
TRUSTED_HOSTS = os.environ.get("TRUSTED_HOSTS", "127.0.0.1,localhost").split(",")

MAIL_SERVER = os.environ.get("MAIL_SERVER")
MAIL_PORT = int(os.environ.get("MAIL_PORT", "25"))
MAIL_USERNAME = os.environ.get("MAIL_USERNAME")
MAIL_PASSWORD = os.environ.get("MAIL_PASSWORD")
MAIL_USE_TLS = os.environ.get("MAIL_USE_TLS", "").lower() in {"1", "true", "yes", "on"}
MAIL_DEBUG = False
MAIL_DEFAULT_SENDER = os.environ.get("MAIL_DEFAULT_SENDER", "Flask-Background demo <demo@example.com>")
