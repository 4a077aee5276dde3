from __future__ import annotations

import functools
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent / "data"
DELAY = 0.5  # seconds: as from far away


def fetch(path: str, base: str, timeout: float) -> dict[str, Any]:
    """What is at `path` below `base` (or at `path`, if that is a URL): the status, how many bytes, and the bytes.

    Raises ConnectionError when there is no such page, nobody answers, or not within `timeout` seconds.
    """
    url = urllib.parse.urljoin(demo() if base == "demo" else base, path)
    local = urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost")
    ways = [urllib.request.ProxyHandler({})] if local else []  # a proxy cannot see this machine
    try:
        with urllib.request.build_opener(*ways).open(url, timeout=timeout) as answer:
            content = answer.read()
            return {"status": answer.status, "bytes": len(content), "content": content}
    except urllib.error.HTTPError as error:
        with error:
            raise ConnectionError(f"{path}: {error.code} {error.reason}") from None
    except TimeoutError:
        raise ConnectionError(f"{path}: no answer within {timeout:g} s") from None
    except urllib.error.URLError as error:
        raise ConnectionError(f"{path}: {error.reason}") from None


_one = threading.Lock()


def demo() -> str:
    """The address of a server on this machine, in this process, that gives out the files of `data/`, each after a pause."""
    with _one:
        return _serving()


@functools.cache
def _serving() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Slow, directory=str(DATA)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/"


class _Slow(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(DELAY)
        super().do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""
