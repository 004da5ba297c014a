"""Threads, locks and timers of the operating system, also under gevent."""
