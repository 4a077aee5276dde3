"""What tasks tell of themselves while they run: heard where the run is, whatever process or machine they are in."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

TOPIC = "pipelines"
told: deque[dict[str, Any]] = deque()
"""By tasks in this process that no Dask worker runs."""


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
