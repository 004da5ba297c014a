from __future__ import annotations
def to_timestamp(delay, run_at, now):
    if delay is None and run_at is None: return now
    if delay is not None: return now + getattr(delay,'total_seconds',lambda: delay)()
    return run_at.timestamp()
class Schedule: ...
def make_schedule(*a): ...
