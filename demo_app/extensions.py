"""The extensions, made without an app so that every module may import them."""

from __future__ import annotations

from flask_mail import Mail

from flask_background import Background

background = Background()
mail = Mail()
