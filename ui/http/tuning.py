"""Settings of a process that serves many requests at once."""

from __future__ import annotations

import gc
import os
import sys


def tune_for_many() -> None:
    """Tune this process for many requests at once; must be called before numpy is imported.

    One thread per numpy operation, since requests already run in parallel; fewer garbage collections, which visit
    everything a home holds; and a shorter switch interval, so that short requests wait less for ranking ones.
    """
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.001)
