"""What tasks tell of themselves while they run: heard where the run is, whatever process or machine they are in."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

TOPIC = "pipelines"
HEARD: ContextVar[deque[dict[str, Any]] | None] = ContextVar("heard", default=None)
"""Where an executor hears its tasks that run in this process, and not in a Dask worker; other runs have their own."""


def back_off(tries: int) -> None:
    """Waits before what failed `tries` times, from 0, and may pass is tried again: 0.1 s, 0.3 s, 0.9 s, ..., at most 30 s."""
    time.sleep(min(30.0, 0.1 * 3**tries))


def tell(what: str, **facts: Any) -> None:
    """From within a task, or beside it. The facts are plain values."""
    event = {"what": what, **facts}
    if (heard := HEARD.get()) is not None:  # asked first: the run may be one that a worker's task made
        heard.append(event)
    elif "distributed" in sys.modules:
        from distributed import get_worker

        with suppress(ValueError):  # not in a worker's task
            get_worker().log_event(TOPIC, event)
