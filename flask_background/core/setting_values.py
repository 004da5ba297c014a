"""Checks of single settings. Each error names the key, the value and the allowed values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask_background.core.checks import at_most, is_duration, is_number, is_whole, shown
from flask_background.errors import ConfigurationError

_CELERY = ("broker_url", "result_backend")
_URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def count(config: Mapping[str, Any], key: str, default: int) -> int:
    """Return the setting, a whole number from 1."""
    value = config.get(key, default)
    if not is_whole(value) or value < 1:
        raise wrong_setting(key, value, "a whole number from 1")
    return value


def one_of(config: Mapping[str, Any], key: str, *allowed: str) -> Any:
    """Return the setting, which has to be one of these strings; the first one is the default."""
    value = config.get(key, allowed[0])
    if value not in allowed:
        *others, last = (f'"{name}"' for name in allowed)
        raise wrong_setting(key, value, f"{', '.join(others)} or {last}")
    return value


def flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """Return the setting, a bool."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise wrong_setting(key, value, "True or False")
    return value


def folder(config: Mapping[str, Any], key: str) -> Path | None:
    """Return the setting, the absolute path of a folder, or None."""
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise wrong_setting(key, value, "the path of a folder, or None for the app's instance folder")
    path = Path(value)
    # A relative path means another folder in each working directory, and so does a URL.
    if not path.is_absolute():
        raise wrong_setting(
            key, value, "the absolute path of a folder, or None for the app's instance folder"
        )
    return path


def celery_config(config: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """Return the setting, a dict of Celery's own settings, or None."""
    value = config.get(key)
    if value is None:
        return None
    # The value is left out, because it may contain a password.
    if not isinstance(value, Mapping):
        wrong = f"is not a dict but {type(value).__name__}"
        if isinstance(value, str):
            wrong += ' (the environment takes JSON, {"name": "value"})'
    elif missing := [name for name in _CELERY if not isinstance(value.get(name), str)]:
        wrong = f"has no usable {' and no usable '.join(missing)}"
    else:
        return value
    raise ConfigurationError(
        f"{key} {wrong}; allowed is a dict of Celery's settings with at least"
        ' "broker_url" and "result_backend", or None if the app has a Celery'
    )


def shared_folder(config: Mapping[str, Any], key: str) -> str | None:
    """Return the setting, the absolute path of a folder that machines share or a URL of one, or None."""
    value = config.get(key)
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    text = text.removeprefix("file://") if isinstance(text, str) else ""
    if not (text.startswith("/") or _URL.match(text)):
        # The value is left out, because it may contain a password.
        raise ConfigurationError(
            f"{key} is not usable; allowed is the absolute path of a folder that all machines share, a URL"
            ' such as "s3://bucket/prefix", or None'
        )
    return text


def app_location(config: Mapping[str, Any], key: str) -> str | None:
    """Return the setting, a text such as "shop:create_app()" that says where an app is found, or None."""
    value = config.get(key)
    if value is None:
        return None
    module = value.partition(":")[0] if isinstance(value, str) else ""
    # Perhaps the path of a file
    if module.endswith(".py") or not all(map(str.isidentifier, module.split("."))):
        raise wrong_setting(
            key, value, 'module and app, as in "shop:app" or "shop.web:create_app()", or None'
        )
    return str(value)


def switch_interval(config: Mapping[str, Any], key: str) -> float | None:
    """Return the setting, a number of seconds for ``sys.setswitchinterval``, or None."""
    value = config.get(key)
    if value is None:
        return None
    if not is_number(value) or not 1e-5 <= value <= 1:
        raise wrong_setting(key, value, "seconds, from 0.00001 to 1, or None")
    return float(value)


def seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    """Return the setting, a number of seconds from 0."""
    value = config.get(key, default)
    if not is_duration(value):
        raise wrong_setting(key, value, "a number of seconds from 0")
    return at_most(value)


def optional_seconds(config: Mapping[str, Any], key: str) -> float | None:
    """Return the setting, a number of seconds above 0, or None."""
    return None if config.get(key) is None else positive_seconds(config, key, 0.0)


def positive_seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    """Return the setting, a number of seconds above 0."""
    value = seconds(config, key, default)
    if value == 0:
        raise wrong_setting(key, config[key], "a number of seconds above 0")
    return value


def wrong_setting(key: str, value: object, allowed: str) -> ConfigurationError:
    """Return the error for a setting that is not usable."""
    return ConfigurationError(f"{key} is {shown(value)}; allowed is {allowed}")
