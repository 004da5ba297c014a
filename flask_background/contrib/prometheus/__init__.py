"""Metrics for Prometheus: counters and histograms from the signals, gauges from ``Background.monitor``.

Needs the extra ``prometheus``. In prometheus_client's multiprocess mode (``PROMETHEUS_MULTIPROC_DIR``) the
counters of all processes of a machine are added up at each scrape. The gauges are asked for anew at each
scrape, by the process that answers it, so there is no gauge to remove when a process has died.
"""

from flask_background.contrib.prometheus.metrics import PrometheusMetrics

__all__ = ["PrometheusMetrics"]
