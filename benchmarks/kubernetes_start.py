"""How long a run on Kubernetes takes until its first task is done, on a cluster whose nodes have the image, and where that goes.

python -m benchmarks.kubernetes_start --runs 5 [--image pipelines:0.1.0] [--namespace pipelines]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import load
from pipelines.executors import kubernetes
from pipelines.executors.kubernetes import Kubernetes
from pipelines.k8s.api import Kube
from pipelines.k8s.watch import Watch

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("the API server is found", Kube, "__enter__"),
    ("the cluster is asked for", Kube, "create"),
    ("the scheduler's pod is made, starts and is ready", Watch, "scheduler"),
    ("connected to the scheduler", Kubernetes, "connect"),
    ("the first worker is connected", Watch, "until"),
    ("versions are compared", kubernetes, "compare"),
    ("the dashboard answers", kubernetes, "answering"),
)


def timed(owner: Any, name: str, found: dict[str, float], what: str) -> None:
    call: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **options)
        finally:
            found[what] = time.perf_counter() - began

    setattr(owner, name, wrapped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--image")
    parser.add_argument("--namespace", default="pipelines")
    asked = parser.parse_args()
    options: dict[str, Any] = {"namespace": asked.namespace, "cpu": "100m"}
    options |= {"image": asked.image} if asked.image else {}
    now: dict[str, float] = {}
    for what, owner, name in PARTS:
        timed(owner, name, now, what)
    rows = list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "runs").mkdir()
        config = Path(folder) / "config.yaml"
        executor = json.dumps({"kind": "kubernetes", "dashboard_port": 0, "kubernetes": options})
        config.write_text(
            f"name: start\nexecutor: {executor}\nsteps:\n  a: {{map: {{function: math:sqrt, items: [1.0]}}}}\n"
        )
        spec = load(config).spec
        for i in range(asked.runs):
            now.clear()
            began = time.perf_counter()
            with Kubernetes(spec) as opened:
                connected = time.perf_counter()
                opened.client.submit(abs, -1).result()
                first = time.perf_counter()
            row = dict(now)
            row["the first task is done"] = first - connected
            row["in all"] = first - began
            row["(afterwards: all is removed)"] = time.perf_counter() - first
            rows.append(row)
            print(f"run {i + 1}: {row['in all']:.1f} s", flush=True)
    for what in rows[0]:
        values = [row[what] for row in rows]
        print(f"{statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})  {what}")


if __name__ == "__main__":
    main()
