from __future__ import annotations

import time


def nap(number: int, seconds: float) -> str:
    """Waits, as for a database or a device, and frees Python's lock meanwhile."""
    time.sleep(seconds)
    return f"sleeper {number} slept {seconds:g} s"
