"""Keys, types, processes and sizes of what `compile()` gives; what test_compile.py does not try."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from dask.utils import key_split
from polars.testing import assert_frame_equal

from pipelines.lower import lower
from pipelines.passes import Layout
from pipelines.pipeline import Pipeline, load
from pipelines.stages import cut
from tests.conftest import ROOT
from tests.oracle import oracle

Make = Callable[..., Pipeline]
STEPS = """  STOCKS
  traded:
    filter: Close > 20
    checkpoint: memory
  middle:
    aggregate: {by: Symbol, m: median(Open), n: count(*)}
  mean:
    from: traded
    aggregate: {by: Symbol, mean: avg(Open), most: max(Date)}
  top:
    from: traded
    sort: {by: [Volume, Date], limit: 5}
"""


def test_every_frame_equals_the_oracle(pipeline: Make) -> None:
    made = pipeline(STEPS)
    tables = oracle(made.plan())
    for name, frame in made.compile().items():
        assert all(isinstance(dtype, pd.ArrowDtype) for dtype in frame.dtypes)
        computed = frame.compute(scheduler="threads")
        assert list(computed.dtypes) == list(frame.dtypes)
        assert_frame_equal(pl.from_pandas(computed), tables[name], check_exact=True)


def test_a_frames_graph_has_the_keys_of_a_run_up_to_its_step(pipeline: Make) -> None:
    made = pipeline(STEPS)
    for name, frame in made.compile().items():
        assert set(lower(cut(made.plan(), (name,))).graph) <= set(frame.dask)


def test_every_task_carries_the_names_of_steps(pipeline: Make) -> None:
    graph = lower(cut(pipeline(STEPS).plan(), layout=Layout(partitions=3))).graph
    words = {word for key in graph for word in key_split(key).split("+")}
    assert words == {"stocks", "traded", "middle", "mean", "top", "sketch", "share", "cuts", "pick"}


def test_keys_are_the_same_again_and_others_for_another_meaning(pipeline: Make) -> None:
    one, two = (set(lower(cut(pipeline(STEPS).plan())).graph) for _ in range(2))
    assert one == two
    other = set(lower(cut(pipeline(STEPS.replace("Close > 20", "Close > 21")).plan())).graph)
    assert not one & other


def test_one_key_is_one_task_whatever_it_was_compiled_for(pipeline: Make) -> None:
    """Frames of several steps meet in one graph: where they share a key, it must be the same work."""
    made = pipeline(STEPS)
    seen = dict[object, tuple[object, ...]]()
    plan = made.plan()
    for targets in (*((name,) for name in plan.nodes), plan.ends, ("mean", "traded"), ("top", "stocks")):
        for stage in cut(plan, targets).stages:
            means = (
                stage.steps,
                tuple(stage.schema.items()),
                stage.count,
                stage.columns,
                [(link.exchange.kind, link.exchange.keys, link.exchange.order) for link in stage.links],
                len(stage.program),
            )
            assert seen.setdefault(stage.key, means) == means


def test_frames_compute_together(pipeline: Make) -> None:
    import dask

    made = pipeline(STEPS)
    tables, frames = oracle(made.plan()), made.compile()
    for name, computed in zip(frames, dask.compute(*frames.values(), scheduler="threads"), strict=True):
        assert_frame_equal(pl.from_pandas(computed), tables[name], check_exact=True)


def test_frames_go_on_in_dask(pipeline: Make) -> None:
    made = pipeline(STEPS)
    traded, table = made.compile("traded")["traded"], oracle(made.plan())["traded"]
    assert len(traded) == len(table)
    chosen = traded[traded.Symbol == "AAPL"][["Open", "Close"]].compute(scheduler="threads")
    expected = table.filter(pl.col("Symbol") == "AAPL").select("Open", "Close")
    assert_frame_equal(pl.from_pandas(chosen), expected)


def test_every_type_has_an_arrow_face(project: Path) -> None:
    from pipelines.plan import witness
    from pipelines.types import _NAMES

    types = {**_NAMES, "dec": pl.Decimal(20, 3), "ms": pl.Datetime("ms"), "tz": pl.Datetime("us", "Europe/Berlin")}
    table = witness(types).collect()
    table.write_parquet(project / "in.parquet")
    (project / "c.yaml").write_text("steps:\n  t:\n    read: {path: in.parquet, partitions: 2}\n")
    frame = load(project / "c.yaml").compile()["t"]
    assert all(isinstance(dtype, pd.ArrowDtype) for dtype in frame.dtypes)
    computed = frame.compute(scheduler="threads")
    assert list(computed.dtypes) == list(frame.dtypes)
    assert_frame_equal(pl.from_pandas(computed), table, check_exact=True)


def test_on_a_client_of_processes(pipeline: Make) -> None:
    from distributed import Client

    made = pipeline(STEPS)
    frames, tables = made.compile("middle", "mean"), oracle(made.plan())
    with Client(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as client:
        for name, frame in frames.items():
            assert_frame_equal(pl.from_pandas(client.compute(frame).result()), tables[name], check_exact=True)


@pytest.mark.slow
def test_a_hundred_thousand_partitions_to_the_end(pipeline: Make) -> None:
    wide = pipeline(
        STEPS.replace("  STOCKS", f'  stocks:\n    read: {{path: "{ROOT}/data/stocks/NVDA.csv", partitions: 100000}}')
    )
    lowered = lower(cut(wide.plan(), ("mean",)))
    count = 100_000
    assert count * 2 < len(lowered.graph) < count * 2.2
    frame = wide.compile("mean")["mean"]
    assert frame.npartitions == 1
    assert len(frame.dask) == len(lowered.graph) + 1
