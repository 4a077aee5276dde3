"""What tasks tell of themselves while they run: heard where the run is, whatever process or machine they are in."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from pipelines.errors import redacted

TOPIC = "pipelines"
HEARD: ContextVar[deque[dict[str, Any]] | None] = ContextVar("heard", default=None)
"""Where an executor hears its tasks that run in this process, and not in a Dask worker; other runs have their own."""
_OURS = os.path.join(os.path.dirname(__file__), "")


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


def tell_traceback(function: str, error: BaseException) -> None:
    """What went wrong in the user's code, without our frames above it. As text: the error itself need not be fit to travel."""
    told = traceback.TracebackException.from_exception(error)
    theirs = [frame for frame in told.stack if not frame.filename.startswith(_OURS)]
    told.stack = traceback.StackSummary.from_list(theirs)
    tell("traceback", function=function, text=redacted("".join(told.format()).strip()))
