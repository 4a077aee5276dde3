"""The job's pod: lays the project out, runs it beside the cluster, and keeps what it made until the other side has it.

No token of Kubernetes is needed: results leave through a port that only a port-forward reaches.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import Any

from pipelines.k8s.bundle import Order, unpacked
from pipelines.versions import versions

PORT = 8780
ENDED = "pipelines: ended with exit code"
_KEPT_SECONDS = 3600.0
_MESSAGE = Path("/dev/termination-log")


def main() -> int:
    order = unpacked(Path("/archive/run.tar.xz").read_bytes())
    root = Path(order.root)
    if code := _other_versions(order):
        return code
    command = [sys.executable, "-m", "pipelines", "run", *order.args, "--executor", "kubernetes"]
    running = subprocess.Popen(command, cwd=root)

    def stop(number: int, frame: Any) -> None:
        running.send_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    code = running.wait()
    code = 128 - code if code < 0 else code
    made = _made(order)
    _MESSAGE.write_text(json.dumps({"exit_code": code, "made": [str(path) for path in made]})[:4000])
    if made:
        _kept(root, made, code)
    return code


def _other_versions(order: Order) -> int:
    found = versions()
    if wrong := {key: value for key, value in order.versions.items() if found.get(key) != value}:
        for package, value in wrong.items():
            print(f"error: the image has {package} {found.get(package) or 'not at all'}, where it was submitted has {value}\n    build the image anew (make image), or install the same there", flush=True)  # fmt: skip
        return 4
    return 0


def _made(order: Order) -> list[Path]:
    """What the run left in the pod: its folder, and files of the project that the record names."""
    root, found = Path(order.root), list[Path]()

    def stays(path: Path) -> bool:
        return any(path.is_relative_to(mount) for mount in order.covered)

    for folder in sorted((root / "runs").iterdir()):
        if not (folder / "record.json").exists() or folder.name.startswith(".") or stays(folder):
            continue
        found.append(folder)
        outputs = json.loads((folder / "record.json").read_text()).get("outputs") or {}
        paths = (Path(output["path"]) for output in outputs.values() if output["path"])
        found += [
            path for path in paths if path.is_relative_to(root) and not path.is_relative_to(folder) and not stays(path)
        ]
    return found


def _kept(root: Path, made: list[Path], code: int) -> None:
    """Serves one tar of it until it was taken."""
    taken = threading.Event()
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path in made:
                archive.add(path, path.relative_to(root))
        size = packed.tell()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                packed.seek(0)
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                while block := packed.read(1 << 20):
                    self.wfile.write(block)

            def do_DELETE(self) -> None:
                self.send_response(204)
                self.end_headers()
                taken.set()

            def log_message(self, format: str, *args: Any) -> None:
                return None

        signal.signal(signal.SIGTERM, lambda number, frame: taken.set())
        with http.server.HTTPServer(("127.0.0.1", PORT), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            print(f"{ENDED} {code}", flush=True)
            if not taken.wait(_KEPT_SECONDS):
                print(f"nobody took the results within {_KEPT_SECONDS:.0f} s: they are lost", flush=True)
            server.shutdown()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
