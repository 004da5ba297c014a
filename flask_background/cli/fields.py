"""The fields that ``--json`` prints: those of the monitor's snapshots, by the same names."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import click

from flask_background.cli.formatting import shown
from flask_background.core.status import Progress
from flask_background.monitoring.snapshots import Distribution, ItemSnapshot

# The fields of an item that only ``show`` prints.
_DETAILS = frozenset({"traceback", "state", "runs"})


def print_json(value: object) -> None:
    """Print snapshots as JSON on one line, in ASCII."""
    click.echo(json.dumps(json_of(value)))


def details_of(item: ItemSnapshot) -> dict[str, Any]:
    """Return all fields of an item; elsewhere an item has no traceback, no request and no runs."""
    return _fields_of(item)


def json_of(value: object) -> Any:
    """Return snapshots as dicts, times as ISO 8601 in UTC, and distributions as their quantiles."""
    match value:
        case ItemSnapshot():
            return _fields_of(value, _DETAILS)
        case Distribution():
            mean = value.seconds / value.total if value.total else None
            return {
                "items": value.total,
                "mean": mean,
                "p50": value.quantile(0.5),
                "p95": value.quantile(0.95),
            }
        case Progress():
            return {name: json_of(part) for name, part in value._asdict().items()}
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case StrEnum():
            return value.value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): json_of(part) for name, part in value.items()}
        case list() | tuple():
            return [json_of(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _fields_of(value)
    return shown(value)


def _fields_of(value: Any, without: Collection[str] = ()) -> dict[str, Any]:
    return {
        field.name: json_of(getattr(value, field.name))
        for field in fields(value)
        if field.name not in without
    }
