"""The command ``flask background metrics``: answers Prometheus for all processes of a machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from flask import current_app
from prometheus_client import start_http_server

from flask_background.cli.base import command
from flask_background.contrib.prometheus.metrics import EXTENSION, MULTIPROC_DIR

if TYPE_CHECKING:
    from flask_background.app_state import BackgroundState


@command("metrics")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65_535), default=9464, show_default=True)
def metrics(state: BackgroundState, host: str, port: int) -> None:
    """Serve the metrics of all processes on this machine to Prometheus, until TERM or INT."""
    found = current_app.extensions.get(EXTENSION)
    if found is None:
        raise click.ClickException(f"app {current_app.name!r} has no metrics: call PrometheusMetrics(app)")
    if MULTIPROC_DIR not in os.environ:
        raise click.ClickException(
            f"the counts of other processes cannot be seen: set {MULTIPROC_DIR} to the same folder for this"
            " command and for the processes that run items"
        )
    try:
        server, thread = start_http_server(port, host, found.registry)
    except OSError as error:
        raise click.ClickException(f"{host}:{port} cannot be listened at: {error}") from error
    click.echo(f"Serving metrics on http://{host}:{server.server_port}/metrics", err=True)
    thread.join()
