"""Reads what a process answers to Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One scrape. Names are without their ``flask_background_``."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]
        self.names = {sample.name for sample in self._samples}

    def get(self, name: str, **labels: str) -> float | None:
        """The sum of a metric over all samples with these labels; None if there is none."""
        found = [
            sample.value
            for sample in self._samples
            if sample.name == f"flask_background_{name}" and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    def labels(self, name: str, label: str) -> set[str]:
        """The values of a label."""
        return {sample.labels[label] for sample in self._samples if sample.name == f"flask_background_{name}"}
