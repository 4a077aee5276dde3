"""Tables on their way between workers."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import threading, time
import polars as pl
from distributed.protocol import deserialize, serialize
from pipelines.graph import register_serializers

register_serializers()
frame = pl.DataFrame({"x": range(1000), "y": ["text"] * 1000})
end = time.monotonic() + 3

def use():
    while time.monotonic() < end:
        frame.lazy().filter(pl.col("x") > 1)

threads = [threading.Thread(target=use) for _ in range(3)]
for thread in threads:
    thread.start()
while time.monotonic() < end:
    sent = serialize(frame)
for thread in threads:
    thread.join()
assert deserialize(*sent).equals(frame)
print("done")
"""


def test_a_table_that_is_sent_may_be_used_meanwhile() -> None:
    """In a process of its own: what it is about is a deadlock."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "done\n", done.stderr
