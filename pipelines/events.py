"""What tasks tell of themselves while they run: heard where the run is, whatever process or machine they are in."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

TOPIC = "pipelines"
told: deque[dict[str, Any]] = deque()
"""By tasks in this process that no Dask worker runs."""


def back_off(tries: int) -> None:
    """Waits before what failed `tries` times, from 0, and may pass is tried again: 0.1 s, 0.3 s, 0.9 s, ..., at most 30 s."""
    time.sleep(min(30.0, 0.1 * 3**tries))


def tell(what: str, **facts: Any) -> None:
    """From within a task, or beside it. The facts are plain values."""
    event = {"what": what, **facts}
    if "distributed" in sys.modules:
        from distributed import get_worker

        try:
            get_worker().log_event(TOPIC, event)
            return
        except ValueError:  # not in a worker's task
            pass
    told.append(event)
