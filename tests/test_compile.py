"""What `compile()` gives: real dask.dataframe.DataFrames over the tasks that a run runs."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import polars as pl
from dask.utils import key_split

from pipelines.lower import lower
from pipelines.pipeline import Pipeline
from pipelines.stages import cut
from tests.conftest import ROOT

STEPS = """  STOCKS
  traded:
    filter: Close > 20
  by_date:
    aggregate: {by: [Date], open_mean: avg(Open), n: count(*)}
  out:
    write: "${run}/out.parquet"
"""


def test_frames_are_lazy_have_arrow_types_and_equal_the_run(pipeline: Callable[..., Pipeline]) -> None:
    import dask.dataframe as dd

    made = pipeline(STEPS)
    frames = made.compile()
    assert list(frames) == ["stocks", "traded", "by_date"]
    assert all(isinstance(frame, dd.DataFrame) for frame in frames.values())
    assert all(isinstance(dtype, pd.ArrowDtype) for frame in frames.values() for dtype in frame.dtypes)
    assert frames["traded"].npartitions == 5
    written = made.run("serial").outputs["out"].path
    assert written is not None
    computed = frames["by_date"].compute(scheduler="threads")
    assert pl.from_pandas(computed).equals(pl.read_parquet(written))
    assert len(frames["traded"][["Close"]]) == int((frames["stocks"].Close > 20).sum().compute())


def test_they_are_the_tasks_that_run_and_carry_the_steps_names(pipeline: Callable[..., Pipeline]) -> None:
    made = pipeline(STEPS)
    runs = set(lower(cut(made.plan())).graph)
    names = {key_split(key) for key in runs}
    assert names == {"stocks+traded+by_date", "by_date+out"}
    frame = made.compile("by_date")["by_date"]
    assert {key for key in runs if key[0].startswith("stocks+")} <= set(frame.dask)


def test_a_frame_computes_on_a_cluster(pipeline: Callable[..., Pipeline]) -> None:
    from distributed import Client

    frame = pipeline(STEPS).compile("traded")["traded"]
    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as client:
        assert client.compute(frame.Close.min()).result() > 20


def test_only_columns_that_are_read_are_carried(pipeline: Callable[..., Pipeline]) -> None:
    staged = cut(
        pipeline(
            STEPS.replace(
                "  by_date:", "  kept:\n    checkpoint: memory\n    derive: {x: Open * 2, y: High}\n  by_date:"
            )
        ).plan()
    )
    (kept,) = staged.tables["kept"]
    assert list(kept.schema) == ["Date", "Open"]


def test_a_thousand_steps(pipeline: Callable[..., Pipeline]) -> None:
    many = "  STOCKS\n" + "".join(f"  s{i}:\n    derive: {{change: Close - Open + {i}}}\n" for i in range(1000))
    assert len(lower(cut(pipeline(many).plan())).graph) == 5


def test_a_hundred_thousand_partitions(pipeline: Callable[..., Pipeline]) -> None:
    wide = pipeline(
        STEPS.replace("  STOCKS", f'  stocks:\n    read: {{path: "{ROOT}/data/stocks/NVDA.csv", partitions: 100000}}')
    )
    assert wide.compile("traded")["traded"].npartitions == 100_000
