"""Hypothesis, with as many examples as the tests try; other tests need not import it, which takes long."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .helpers import CI

__all__ = ["given", "st"]

# Few while somebody writes code, many before it lands.
_settings = {"deadline": None, "database": None, "derandomize": True}
_healthy = {"suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("dev", max_examples=10, stateful_step_count=20, **_settings, **_healthy)
settings.register_profile("ci", max_examples=150, stateful_step_count=40, **_settings, **_healthy)
settings.load_profile("ci" if CI else "dev")
