"""What a run says while it runs and when it is done."""

from __future__ import annotations

import bisect
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import polars as pl

from pipelines.executors.base import Progress
from pipelines.record import Log
from pipelines.types import beyond_calendar

_LINE_SECONDS = 5.0


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{value / 60:.1f} min"


def table(frame: pl.DataFrame, rows: int) -> str:
    """The frame as a plain table, with shorter texts and then without its middle columns where the terminal is narrower;
    `rows` is how many the whole table has."""
    width = shutil.get_terminal_size((160, 0)).columns
    frame = frame.with_columns(c.to_physical() for c in frame.get_columns() if beyond_calendar(c))

    def drawn(columns: int, texts: int, wide: int = 60_000) -> str:
        with pl.Config(
            tbl_rows=-1,
            tbl_cols=columns,
            tbl_hide_dataframe_shape=True,
            tbl_formatting="UTF8_BORDERS_ONLY",
            tbl_hide_column_data_types=False,
            tbl_width_chars=wide,
            fmt_str_lengths=texts,
            fmt_float="full",
        ):
            return str(frame)

    def too_wide(columns: int, texts: int) -> bool:
        return len(drawn(columns, texts).split("\n", 1)[0]) > width

    few = min(2, frame.width)
    texts = 30 if too_wide(frame.width, 60) else 60
    shown = few + bisect.bisect_left(range(few, frame.width), True, key=lambda n: too_wide(n + 1, texts))
    more = f"\n({rows:,} row{'s' * (rows != 1)}{' in all' * (rows > len(frame))}"
    return drawn(shown, texts, width) + more + (f"; {shown} of {frame.width} columns)" if shown < frame.width else ")")


@contextmanager
def shown(progress: Progress, totals: Mapping[str, tuple[str, int]], log: Log) -> Iterator[None]:
    """Shows progress while the block runs: bars on a terminal, elsewhere a line when a stage is done or has been at work long.

    totals: task name → (what to call it, number of tasks).
    """
    if not totals:
        yield
    elif sys.stderr.isatty() and not log.as_json:
        yield from _bars(progress, totals)
    else:
        yield from _lines(progress, totals, log)


def _bars(progress: Progress, totals: Mapping[str, tuple[str, int]]) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        rows = {key: bars.add_task(label, total=total, start=False) for key, (label, total) in totals.items()}

        def changed() -> None:
            for key, row in rows.items():
                if timing := progress.timings.get(key):
                    if timing.done or timing.start < float("inf"):
                        bars.start_task(row)
                    bars.update(row, completed=min(timing.done, totals[key][1]))

        progress.changed = changed
        yield
        progress.changed = lambda: None


def _lines(progress: Progress, totals: Mapping[str, tuple[str, int]], log: Log) -> Iterator[None]:
    said, last = dict[str, int](), time.monotonic()

    def changed() -> None:
        nonlocal last
        for key, (label, total) in totals.items():
            timing = progress.timings.get(key)
            if timing is None or said.get(key) == total:
                continue
            if timing.done >= total:
                said[key] = total
                took = max(0.0, timing.stop - timing.start)
                log.say(f"{label}: {total}/{total} done in {seconds(took)}", stage=label, done=total, of=total)
            elif time.monotonic() - last >= _LINE_SECONDS and said.get(key) != timing.done:
                said[key], last = timing.done, time.monotonic()
                log.say(f"{label}: {timing.done}/{total}", stage=label, done=timing.done, of=total)

    progress.changed = changed
    yield
    changed()
    progress.changed = lambda: None
