"""Random pipelines with `checkpoint: disk` at random steps, run again and again over one store: in other words, other layouts, with
other steps, after a part of what was kept is gone. Whatever is found there, the answer is the oracle's, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import ConfigError, load
from pipelines.checkpoint import FORMAT
from pipelines.errors import PipelineError
from pipelines.passes import PASSES, Layout
from pipelines.pipeline import Pipeline
from pipelines.run import execute
from tests.oracle import oracle
from tests.random_plans import pipeline, step, table
from tests.test_random_plans import bits

_IN_ORDER = {"derive", "aggregate", "window"}
"""Kinds whose outputs are in the order in which they are written."""


def shuffled(r: Random, value: Any) -> Any:
    """The same mapping, its keys in another order."""
    if not isinstance(value, dict):
        return value
    names = list(value)
    r.shuffle(names)
    return {name: value[name] if name in _IN_ORDER else shuffled(r, value[name]) for name in names}


def otherwise(r: Random, steps: dict[str, Any], project: Path) -> dict[str, Any]:
    """Steps that mean the same or a little else."""
    steps = json.loads(json.dumps(steps))
    draw = r.random()
    if draw < 0.4:
        steps = {name: each if "read" in each else shuffled(r, each) for name, each in steps.items()}
    elif draw < 0.5:  # another table
        name = r.choice("ab")
        before = (project / f"{name}.parquet").read_bytes()
        table(r).write_parquet(project / f"{name}.parquet", row_group_size=3)
        try:
            written(project, steps).plan()
        except PipelineError:
            (project / f"{name}.parquet").write_bytes(before)
    elif draw < 0.6:
        steps[r.choice("ab")]["read"]["partitions"] = r.choice([1, 2, 3, 5])
    elif draw < 0.85:  # another one, or one more
        names = list(steps)
        at = r.randrange(2, len(names) + 1)
        made = written(project, steps)
        schemas = {node.name: node.schema for node in made.plan().nodes.values() if node.name in names[:at]}
        name = names[at] if at < len(names) else f"t{len(names) - 1}"
        new = {**steps, name: step(r, schemas)}
        try:
            written(project, new).plan()
        except ConfigError:
            pass
        else:
            steps = new
    for name, each in steps.items():
        each.pop("checkpoint", None)
        if (name not in "ab" and r.random() < 0.5) or r.random() < 0.15:
            each["checkpoint"] = "disk"
    return steps


def written(project: Path, steps: dict[str, Any]) -> Pipeline:
    (project / "c.yaml").write_text(json.dumps({"steps": steps}, ensure_ascii=False))
    return load(project / "c.yaml")


def lose(r: Random, project: Path) -> None:
    """As if a run had been killed: some partitions are not there, others without their manifests."""
    for path in sorted((project / "runs/.store" / FORMAT).glob("*/*.json")):
        if path.parent.name not in ("uses", "steps") and r.random() < 0.4:
            path.unlink()
            if r.random() < 0.5:
                for file in path.parent.glob(f"{path.stem}.*.parquet"):
                    file.unlink()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 1 << 32), st.sampled_from([frozenset(PASSES), frozenset(PASSES), frozenset[str]()]))
def test_whatever_is_kept_the_answer_is_the_oracles(project: Path, seed: int, passes: frozenset[str]) -> None:
    shutil.rmtree(project / "runs/.store", ignore_errors=True)
    r = Random(seed)
    pipeline(r, project)
    steps = json.loads((project / "c.yaml").read_text())["steps"]
    for turn in range(4):
        steps = otherwise(r, steps, project)
        try:
            wanted = oracle((made := written(project, steps)).plan())
        except PipelineError:  # a key that `validate` finds twice
            return
        layout = Layout(passes, r.choice([None, 2, 3, 3, 5]))
        ends = [r.choice(list(wanted))] if r.random() < 0.3 else list(made.plan().ends)
        for end in ends:
            found = execute(made.plan(), r.choice(["serial", "threads"]), to=end, head=1 << 40, layout=layout)
            assert bits(found.outputs[end].head) == bits(wanted[end]), (turn, end)
        lose(r, project)
    shutil.rmtree(project / "runs")
    (project / "runs").mkdir()
