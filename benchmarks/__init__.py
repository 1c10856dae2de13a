"""Benchmarks: this package beside a plain literal implementation. `python -m benchmarks.bench`, see README.md."""

import os

# Read when libraries are loaded: no look-ups on the network, no log lines of the profiler between the table's.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
