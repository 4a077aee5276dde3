"""Run by `doctor` in a pod: looks around, and says one JSON line for each thing found."""

from __future__ import annotations

import glob
import json
import os
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.versions import versions

_SECONDS = 60


def main() -> int:
    asked = json.loads(os.environ["PIPELINES_ASKED"])
    code = 0

    def wrong(what: str, remedy: str) -> None:
        nonlocal code
        code = 4
        print(json.dumps({"wrong": what, "remedy": remedy}), flush=True)

    def fine(what: str) -> None:
        print(json.dumps({"fine": what}), flush=True)

    found = versions()
    other = [
        f"{key} {found.get(key)}, here {value}" for key, value in asked["versions"].items() if found.get(key) != value
    ]
    if other:
        wrong(
            f"the image has other versions: {'; '.join(other)}",
            "build the image anew (make image), or install the same here",
        )
    else:
        fine(f"the operator acts, the image has the same versions ({found['pipelines']}, Python {found['Python']})")

    address = urlsplit(os.environ["DASK_SCHEDULER_ADDRESS"])
    deadline, resolved = time.monotonic() + _SECONDS, ""
    while not resolved:
        try:
            resolved = socket.gethostbyname(address.hostname or "")
        except OSError as error:
            if time.monotonic() > deadline:
                wrong(f"the cluster's DNS does not know {address.hostname}: {error}", "is CoreDNS at work? kubectl get pods --namespace kube-system")  # fmt: skip
                break
            time.sleep(1)
    if resolved:
        fine(f"{address.hostname} is {resolved}")

    for pattern in asked["paths"]:
        if "://" in pattern:
            import fsspec

            try:
                there = bool(fsspec.open_files(pattern, "rb"))
                why = ""
            except Exception as error:
                there, why = False, f": {type(error).__name__}: {error}"
        else:
            there, why = any(glob.iglob(str(Path(asked["root"], pattern)), recursive=True)), ""
        if there:
            fine(f"{pattern} is there")
        else:
            wrong(
                f"a pod finds nothing at {pattern}{why}",
                "look at executor.kubernetes.volumes and secrets, and at what they hold",
            )
    if "store" in asked:
        url, options = asked["store"]
        try:
            _keeps(url if "://" in url else str(Path(asked["root"], url)), options)
        except Exception as error:
            wrong(
                f"a pod cannot keep anything in the store {url}: {type(error).__name__}: {error}",
                "look at `store:`, and at executor.kubernetes.volumes and secrets",
            )
        else:
            fine(f"the store {url} takes what is kept")
    return code


def _keeps(url: str, options: dict[str, Any]) -> None:
    """Writes a small file there, and removes it. Raises what the file system raises."""
    import fsspec

    files, path = fsspec.core.url_to_fs(f"{url.rstrip('/')}/.probe-{uuid.uuid4().hex}", **options)
    if "://" not in url:
        files.makedirs(os.path.dirname(path), exist_ok=True)
    files.pipe_file(path, b"here")
    files.rm_file(path)


if __name__ == "__main__":
    sys.exit(main())
