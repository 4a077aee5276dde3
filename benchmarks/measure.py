"""Runs a whole process, from start to exit, and looks at the memory of its tree meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EVERY = 0.05  # seconds from one look at the memory to the next
LIMIT = 1800  # seconds


@dataclass(frozen=True)
class Measured:
    """Peaks are in bytes. `failed`: the last words of a process that failed, else empty."""

    seconds: float
    anonymous: int
    resident: int
    failed: str = ""


def run(command: list[str], folder: Path) -> Measured:
    anonymous = resident = 0
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as said:
        seconds, began = 0.0, time.perf_counter()
        try:
            process = subprocess.Popen(
                command,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=folder,
                # compiled code is kept, as it is wherever nobody forbids it
                env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""},
                start_new_session=True,
            )
        except OSError as error:
            return Measured(0.0, 0, 0, str(error))
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(EVERY)
                seconds = time.perf_counter() - began
                if process.returncode is not None:
                    break
                if seconds > LIMIT:
                    raise TimeoutError
                now = _memory(process.pid)
                anonymous, resident = max(anonymous, now[0]), max(resident, now[1])
        except TimeoutError:
            return Measured(seconds, anonymous, resident, f"took more than {LIMIT} s")
        finally:  # also on Ctrl-C; nothing that a competitor started may disturb the next one
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip()[-500:]
    return Measured(seconds, anonymous, resident, "" if process.returncode == 0 else words or "failed")


def _memory(pid: int) -> tuple[int, int]:
    """(anonymous, resident) bytes of the process and all below it, from the kernel's counters: to walk over their pages would
    slow those down that have many."""
    anonymous = resident = 0
    for each in _tree(pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    anonymous += int(line.split()[1]) * 1024
                elif line.startswith("VmRSS:"):
                    resident += int(line.split()[1]) * 1024
    return anonymous, resident


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for thread in list(Path(f"/proc/{pid}/task").iterdir()):
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))
