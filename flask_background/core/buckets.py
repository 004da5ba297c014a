"""The buckets into which waits and run times are counted."""

from __future__ import annotations

#: The upper bounds of the buckets, in seconds; one more bucket is above. The journal has the same bounds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)

#: The number that stands for the bucket of an item that has not run.
NO_RUN = -1
