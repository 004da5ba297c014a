"""Threads, locks and timers that are real under gevent, too."""
