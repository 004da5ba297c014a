"""The settings. Mail goes where the environment says, else to the demo's own server."""

from __future__ import annotations

import os
from pathlib import Path

# Where the journal, the pictures and the letters are kept.
INSTANCE = Path(os.environ.get("DEMO_INSTANCE", Path(__file__).parents[1] / "instance")).resolve()

MAX_CONTENT_LENGTH = 32 * 1024 * 1024
MAX_FORM_PARTS = 24  # pictures in one upload

# Each worker shrinks pictures in a child process, one after the other: that takes all of a CPU, and would
# make every page slow if it were done in a thread. The largest take almost a gigabyte, as WebP.
BACKGROUND_EXECUTORS = {
    "pictures": {"kind": "process", "workers": 1, "nice": 10, "max_memory": 1024},
    "children": {"kind": "process", "workers": 1, "nice": 10},
}
BACKGROUND_WORKERS = 2

SQLALCHEMY_DATABASE_URI = f"sqlite:///{INSTANCE / 'orders.db'}"

# What visitors leave here goes after so many seconds, and somebody looks so often whether it is time.
DEMO_KEEP = float(os.environ.get("DEMO_KEEP", 24 * 60 * 60))
DEMO_PRUNE_EVERY = float(os.environ.get("DEMO_PRUNE_EVERY", 10 * 60))

# A task on a schedule shows that it runs: so often, in seconds.
DEMO_TICK_EVERY = float(os.environ.get("DEMO_TICK_EVERY", 10))

# A letter links to the host that the form was sent to, so a made-up Host header must not pass.
TRUSTED_HOSTS = os.environ.get("TRUSTED_HOSTS", "127.0.0.1,localhost").split(",")

MAIL_SERVER = os.environ.get("MAIL_SERVER")
MAIL_PORT = int(os.environ.get("MAIL_PORT", "25"))
MAIL_USERNAME = os.environ.get("MAIL_USERNAME")
MAIL_PASSWORD = os.environ.get("MAIL_PASSWORD")
# The server's certificate is checked. One of your own authority is trusted with SSL_CERT_FILE=authority.pem.
MAIL_USE_TLS = os.environ.get("MAIL_USE_TLS", "").lower() in {"1", "true", "yes", "on"}
MAIL_TIMEOUT = float(os.environ.get("MAIL_TIMEOUT", "10"))  # seconds for each answer of the server
MAIL_DEBUG = False
MAIL_DEFAULT_SENDER = os.environ.get("MAIL_DEFAULT_SENDER", "Flask-Background demo <demo@example.com>")
