"""A file that was cut is read at once where nothing shows how it was cut; and looked at piece by piece where something is odd in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import DataError, load, scan
from pipelines.pipeline import Pipeline
from pipelines.run import Result
from pipelines.steps import read

Make = Callable[..., Pipeline]
HEAD = "day,name,price,volume\n"
GROUPED = "  sums: {aggregate: {by: [day], p: sum(price), m: avg(price), n: count(*), v: max(volume)}}\n"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more than 3 kB are cut into pieces of about 2."""
    monkeypatch.setattr(read, "PARTITION_BYTES", 2000)
    monkeypatch.setattr(scan, "_CUT", 2000)


def row(i: int) -> str:
    return f"2024-01-{i % 28 + 1:02},name {i % 5},{i / 7:.4f},{i}\n"


def rows(count: int) -> list[str]:
    return [row(i) for i in range(count)]


def put(project: Path, *files: list[str]) -> None:
    for i, lines in enumerate(files):
        (project / f"{i}.csv").write_text(HEAD + "".join(lines))


def answer(pipeline: Make, steps: str, executor: str = "threads", options: str = "") -> tuple[bytes, int]:
    """The bytes of the result, and the tasks of the first stage."""
    text = f'  rows: {{read: {{path: "*.csv"{options}}}}}\n{steps}  out: {{write: "${{run}}/out.parquet"}}\n'
    result: Result = pipeline(text).run(executor)
    path = result.outputs["out"].path
    assert path is not None
    return path.read_bytes(), result.stages[0].partitions


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_one_task_reads_a_file(pipeline: Make, project: Path, executor: str) -> None:
    put(project, rows(300), rows(7), rows(5), rows(200))
    found, tasks = answer(pipeline, GROUPED, executor)
    cut, pieces = answer(pipeline, GROUPED, executor, ", partitions: 12")
    assert (tasks, pieces) == (3, 12)  # the small files are one partition
    assert found == cut


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (GROUPED.replace("n: count(*)", "n: first(name)"), ""),  # the order shows
        (GROUPED.replace("n: count(*)", "n: std(price)"), ""),  # the cuts show, in the last digits
        (GROUPED.replace("}}\n", "}, checkpoint: disk}\n"), ""),  # states are kept for the next run
        (GROUPED, ", bad_rows: drop"),  # needs a file's text in memory
        ("  some: {filter: price > 3}\n", ""),
    ],
)
def test_pieces_stay_where_something_depends_on_them(pipeline: Make, project: Path, steps: str, options: str) -> None:
    put(project, rows(300), rows(200))
    assert answer(pipeline, steps, options=options)[1] > 2


def test_processes_share_a_file(pipeline: Make, project: Path) -> None:
    put(project, rows(300), rows(200))
    assert answer(pipeline, GROUPED, "processes")[1] > 2


def test_a_limit_of_memory_is_one_for_pieces(pipeline: Make, project: Path) -> None:
    put(project, rows(300))
    made = pipeline('  rows: {read: "*.csv"}\n' + GROUPED)
    (project / "limit.yaml").write_text("executor: {memory_limit: 1GiB}\n" + (project / "config.yaml").read_text())
    assert load(project / "limit.yaml").run("threads").stages[0].partitions > made.run("threads").stages[0].partitions


@pytest.mark.parametrize(
    "odd",
    [
        "2024-01-03,name,3.5,\n",  # NULL at the end: could be a short row
        '2024-01-03,"a, b",3.5,7\n',
        '2024-01-03,"a ""b""",3.5,7\n',
        '2024-01-03,"a\n\nb",3.5,7\n',
        "2024-01-03,name,inf,7\n",  # could be a number beyond the type
        "2024-01-03,name,1e300,7\n",
        "2024-01-03,name,3.5,7,\n",
        "2024-01-03,,,\n",
    ],
)
@pytest.mark.parametrize("at", [0, 150, 299])
def test_odd_rows_are_read_as_they_are_in_pieces(pipeline: Make, project: Path, odd: str, at: int) -> None:
    lines = rows(300)
    lines[at] = odd
    put(project, lines, rows(200))
    for steps in (GROUPED, GROUPED.replace("by: [day]", "by: [day, name]")):
        found, tasks = answer(pipeline, steps)
        assert tasks == 2
        assert found == answer(pipeline, steps, options=", partitions: 1")[0]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ("2024-01-03,name,3.5\n", "row 151.*3 fields.*4"),
        ("2024-01-03,name,3.5,7,8\n", "row 151.*5 fields.*4"),
        ("\n", "row 151.*blank|row 151.*fields"),
        ("2024-01-03,name,x,7\n", "row 151.*price.*'x'"),
        ("2024-01-03,name,1e999,7\n", "row 151.*price.*1e999"),
        ("03/01/2024,name,3.5,7\n", "row 151.*day.*03/01/2024"),
        ('2024-01-03,na"me,3.5,7\n', "quote"),
        ('2024-01-03,"name,3.5,7\n', "quote"),
    ],
)
def test_what_is_wrong_has_its_place(pipeline: Make, project: Path, odd: str, said: str) -> None:
    lines = rows(300)
    lines[150] = odd
    put(project, rows(200), lines)
    steps = GROUPED.replace("by: [day]", "by: [day, name]")
    declared = ", dtypes: {day: date, name: string, price: float64, volume: int64}"
    with pytest.raises(DataError, match=said) as at_once:
        answer(pipeline, steps, options=declared)
    assert "1.csv" in str(at_once.value)


values: Any = st.tuples(
    st.sampled_from(["2024-01-01", "2024-02-29", ""]),
    st.sampled_from(["a", "", '"b, c"', '"d\ne"', '"f""g"', "ü"]),
    st.sampled_from(["1", "-0.25", "", "NaN", "inf", "1e300", "1e-300", "123456.789"]),
    st.sampled_from(["5", "-7", ""]),
)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(values, min_size=1, max_size=4), st.lists(st.integers(0, 299), max_size=3))
def test_any_rows_give_what_they_give_in_one_piece(
    pipeline: Make, project: Path, few: list[tuple[str, ...]], places: list[int]
) -> None:
    lines = rows(300)
    for i in places:
        lines[i] = ",".join(few[i % len(few)]) + "\n"
    put(project, lines)
    steps = GROUPED.replace("by: [day]", "by: [day, name]")
    declared = ", dtypes: {day: date, name: string, price: float64, volume: int64}"
    assert (
        answer(pipeline, steps, options=declared)[0] == answer(pipeline, steps, options=declared + ", partitions: 1")[0]
    )
