"""Settings of a process that serves many requests at once."""

from __future__ import annotations

import gc
import os
import sys


def tune_for_many() -> None:
    """Make this process fit for many requests at once; to be called before numpy is imported.

    numpy's own threads stay out of work that many threads share; the collector, which looks through everything that
    a home holds, comes less often; and a thread that only passes a request on waits less for one that ranks.
    """
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.001)
