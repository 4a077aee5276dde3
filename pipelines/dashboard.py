"""Whether Dask's dashboard is there."""

from __future__ import annotations

import time
import urllib.request


def answering(link: str, seconds: float = 5) -> str | None:
    """The link, if Bokeh's page is there: a scheduler without Bokeh answers too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(link, timeout=2) as answer:
                if b"bokeh" in answer.read().lower():
                    return link
        except OSError:
            time.sleep(0.05)
    return None
