"""Tests on real servers, signals and clients."""
