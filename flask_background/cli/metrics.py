"""The command ``flask background metrics``, for apps that have ``PrometheusMetrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import click
from flask import current_app

from flask_background.cli import METRICS
from flask_background.cli.base import command

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


class Metrics(Protocol):
    """The metrics of an app, as this command needs them."""

    def serve(self, host: str, port: int) -> None: ...


@command("metrics")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65_535), default=9464, show_default=True, help="The port.")
def metrics(state: BackgroundState, host: str, port: int) -> None:
    """Serve the metrics of all processes on this machine to Prometheus."""
    found: Metrics | None = current_app.extensions.get(METRICS)
    if found is None:
        raise click.ClickException(f"app {current_app.name!r} has no metrics: call PrometheusMetrics(app)")
    try:
        found.serve(host, port)
    except OSError as error:
        raise click.ClickException(f"the address {host}:{port} cannot be used: {error}") from error
