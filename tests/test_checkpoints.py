"""`checkpoint: disk`: what a later run finds again, what it computes, and what it does not trust."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import DataError, MachineError, Pipeline, load, stores, versions
from pipelines.checkpoint import FORMAT, Manifest, names, store_of
from pipelines.cli import main
from pipelines.passes import PASSES, Layout
from pipelines.plan import digest
from pipelines.run import Result, execute
from pipelines.stages import cut
from pipelines.steps.base import Step
from pipelines.steps.cross_validate import CrossValidate
from pipelines.steps.map import Map
from pipelines.steps.python import Python
from pipelines.steps.search import Search
from pipelines.steps.simulate import Simulate
from pipelines.steps.train import Train
from tests.oracle import oracle

STEPS = """
  a: {read: {path: "data/*.csv", file_column: file}}
  big: {filter: x > 10, checkpoint: disk}
  by_k: {aggregate: {by: k, n: count(*), s: sum(y), m: avg(y)}, checkpoint: disk}
  back: {from: [big, by_k], join: {on: k}}
  best: {top: {by: k, order_by: [y, x], n: 2}, checkpoint: disk}
  out: {write: "${run}/out.parquet"}
  groups: {from: by_k, write: "${run}/groups.csv"}
"""


def data(project: Path, files: int = 6, rows: int = 500) -> Path:
    (project / "data").mkdir(exist_ok=True)
    for i in range(files):
        one(project / f"data/{i:04}.csv", i, rows)
    return project


def one(path: Path, seed: int, rows: int) -> None:
    numbers = pl.Series(range(rows)) + seed * 1000
    table = {"k": numbers * 7 % 23, "x": numbers * 13 % 97, "y": (numbers * 17 % 101) / 7, "t": numbers.cast(pl.String)}
    pl.DataFrame(table).write_csv(path)


def config(project: Path, steps: str = STEPS, top: str = "") -> Path:
    path = project / "c.yaml"
    path.write_text(f"name: c\n{top}steps:\n{steps}")
    return path


def run(config: Path, executor: str = "serial", **options: Any) -> tuple[Result, list[str]]:
    said = list[str]()
    return load(config).run(executor, say=said.append, **options), said


def bytes_of(result: Result) -> dict[str, bytes]:
    return {name: out.path.read_bytes() for name, out in result.outputs.items() if out.path is not None}


def made(result: Result) -> dict[str, int]:
    """Stages of a name: partitions that were made."""
    found = Counter[str]()
    for stage in result.stages:
        found[stage.name] += stage.tasks
    return dict(found)


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in a partition, and three partitions behind every exchange."""
    monkeypatch.setattr("pipelines.scan._FILES_PER_PARTITION", 1)
    monkeypatch.setattr("pipelines.run.Layout", lambda: Layout(frozenset(PASSES), 3))


@pytest.mark.usefixtures("many")
def test_what_one_executor_wrote_every_other_reads(project: Path) -> None:
    path = config(data(project))
    first, said = run(path, "processes")
    assert "big: computed: nothing is stored yet" in said
    tables = oracle(load(path).plan())
    assert pl.read_parquet(bytes_of(first)["out"]).equals(tables["best"])
    for executor in ("serial", "threads", "local", "processes"):
        again, said = run(path, executor)
        assert bytes_of(again) == bytes_of(first)
        assert made(again) == {"out": 1, "groups": 1}
        assert {"by_k: reused, 3 partitions", "big: not needed", "best: reused, 3 partitions"} <= set(said)
        assert any(text.startswith("nothing to compute: ") for text in said)
    fresh, said = run(path, "threads", fresh=True)
    assert bytes_of(fresh) == bytes_of(first)
    assert "big: computed: --fresh" in said
    assert made(fresh)["a+big"] == 6


@pytest.mark.usefixtures("many")
def test_a_changed_file_costs_its_own_partitions(project: Path) -> None:
    path = config(data(project), STEPS.partition("  back")[0] + "  out: {from: by_k, write: '${run}/out.csv'}\n")
    monkey = Layout(frozenset(PASSES), 1)  # few groups: they are combined from states
    plan = load(path).plan()
    execute(plan, "serial", layout=monkey)
    one(project / "data/0003.csv", 77, 600)
    plan = load(path).plan()
    again = execute(plan, "threads", layout=monkey)
    assert made(again) == {"a+big": 1, "by_k": 2, "out": 1}  # its rows, its state, all states
    assert pl.read_csv(again.outputs["out"].path).equals(oracle(plan)["by_k"])  # type: ignore[arg-type]
    said = list[str]()
    one(project / "data/00025.csv", 78, 10)
    again = load(path).run("serial", say=said.append)
    assert "big: partly reused, 6 of 7 partitions: the input file 00025.csv is new" in said


def test_a_new_file_among_many_leaves_most_partitions_as_they_are(project: Path) -> None:
    data(project, 300, 3)
    path = config(project, "  a: {read: 'data/*.csv'}\n")
    before = {part for stage in cut(load(path).plan()).stages for part in stage.parts}
    one(project / "data/00005.csv", 5, 3)
    after = {part for stage in cut(load(path).plan()).stages for part in stage.parts}
    assert len(before) > 8
    assert len(after - before) <= 4


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    "harm",
    ["torn", "flipped", "gone", "a folder", "empty manifest", "other manifest", "no manifest", "folders", "swapped"],
)
def test_what_is_damaged_is_computed_again_and_said(project: Path, harm: str) -> None:
    path = config(data(project))
    first, _ = run(path)
    store = store_of(load(path).spec)
    folder = Path(store.url) / FORMAT
    best = [(n, m) for n, m in stores.contents(store).partitions.items() if m.step == "best"]
    files, told = [folder / n.file(m) for n, m in best], [folder / f"{n.path}.json" for n, _ in best]
    content = files[0].read_bytes()
    match harm:
        case "torn":
            files[0].write_bytes(content[:-20])
        case "flipped":
            files[0].write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        case "gone":
            files[0].unlink()
        case "a folder":
            files[0].unlink()
            files[0].mkdir()
        case "folders":
            for place in (told[0], folder / "steps/c.best.json"):
                place.unlink()
                (place / "deep").mkdir(parents=True)
        case "empty manifest":
            told[0].write_text("")
        case "other manifest":
            facts = json.loads(told[0].read_text())
            told[0].write_text(json.dumps({**facts, "key": "x"}))
        case "no manifest":
            told[0].unlink()
        case "swapped":
            files[0].write_bytes(files[1].read_bytes())
            files[1].write_bytes(content)
    again, said = run(path, "threads")
    assert bytes_of(again) == bytes_of(first)
    told_so = any("not trusted" in text or "not what was written" in text for text in said)
    assert told_so == (harm not in ("no manifest", "folders"))
    found = stores.contents(store)
    stores.verify(store, found)
    assert not found.doubtful
    assert made(run(path)[0]) == {"out": 1, "groups": 1}


def test_verify_names_what_is_damaged(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    path = config(data(project))
    run(path)
    monkeypatch.chdir(project)
    assert main(["store", "verify"]) == 0
    file = next((project / "runs/.store" / FORMAT).glob("*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (project / "runs/.store" / FORMAT / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(["store", "verify"]) == 3
    said = capsys.readouterr()
    assert file.name.split(".")[0] in said.out
    assert "notes.txt is not of the store" in said.err
    assert main(["store", "ls"]) == 0
    assert "by_k" in capsys.readouterr().out
    shutil.rmtree(project / "runs/.store" / FORMAT)
    assert main(["store", "ls"]) == 0
    assert "empty" in capsys.readouterr().out
    assert main(["store", "ls", "c.yaml"]) == 2
    assert "takes no folder" in capsys.readouterr().err
    shutil.rmtree(project / "runs/.store")
    (project / "runs/.store").write_text("a file")
    assert main(["store", "ls"]) == 4
    assert "is a file" in capsys.readouterr().err


def test_a_store_of_another_version_is_left_alone(project: Path) -> None:
    path = config(data(project))
    other = project / "runs/.store/v0/x.parquet"
    other.parent.mkdir(parents=True)
    other.write_text("other")
    _, said = run(path)
    assert any("another version" in text for text in said)
    assert other.read_text() == "other"


def test_gc_takes_what_was_not_used_and_never_what_a_run_holds(project: Path) -> None:
    path = config(data(project))
    plan = load(path).plan()
    store = store_of(plan.spec)
    run(path)
    whole = len(stores.contents(store).partitions)
    assert stores.collect(store, stores.contents(store), 3600.0) == (0, 0)
    from pipelines.checkpoint import using

    with using(store, "other", names(cut(plan))):
        assert stores.collect(store, stores.contents(store), 0.0)[0] == 0
    assert stores.collect(store, stores.contents(store), 0.0, remove=False)[0] == whole
    assert stores.collect(store, stores.contents(store), 0.0)[0] == whole
    assert not stores.contents(store).partitions
    assert any(text.startswith("big: computed: the store has not all of it") for text in run(path)[1])


@pytest.mark.usefixtures("many")
def test_two_runs_at_once_on_one_store(project: Path) -> None:
    path = config(data(project, rows=4000))
    expected = bytes_of(run(path, fresh=True)[0])
    shutil.rmtree(project / "runs/.store")
    found, errors = list[Result](), list[BaseException]()

    def go() -> None:
        try:
            found.append(run(path, "threads")[0])
        except BaseException as error:
            errors.append(error)

    both = [threading.Thread(target=go) for _ in range(3)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert not errors
    assert all(bytes_of(result) == expected for result in found)


@pytest.mark.parametrize("output", ["o.csv", "${run}/../../o.csv"])
def test_two_runs_at_once_on_one_output(project: Path, output: str) -> None:
    (project / "slow.py").write_text("import time\ndef slow(i: int) -> int:\n    time.sleep(3)\n    return i\n")
    path = config(
        project,
        f'  m: {{map: {{function: "slow:slow", items: [1]}}}}\n  out: {{write: {{path: "{output}", overwrite: true}}}}\n',
    )
    first = threading.Thread(target=run, args=(path,))
    first.start()
    time.sleep(0.6)
    other = project / "other"
    (other / "runs").mkdir(parents=True)
    text = path.read_text().replace(output, str(project / "o.csv"))
    (other / "c.yaml").write_text(text)
    (other / "slow.py").write_text((project / "slow.py").read_text())
    for again in (path, other / "c.yaml"):
        with pytest.raises(MachineError, match="is writing to"):
            run(again)
    first.join()
    run(path)


# ---- keys

BASE = """
params: {p: 1}
steps:
  a: {read: {path: "data/*.csv", dtypes: {x: int64, y: float64}}}
  f: {filter: x > 10}
  d: {derive: {z: x * 2, w: y + 1}}
  g: {aggregate: {by: [k], s: sum(z)}, checkpoint: disk}
  o: {write: "${run}/o.csv"}
"""
SAME = {
    "comments and spaces": lambda text: text.replace("steps:", "steps:  # the steps\n"),
    "key order": lambda text: text.replace("x: int64, y: float64", "y: float64, x: int64"),
    "names of steps": lambda text: text.replace("  f:", "  other:").replace("  d:", "  e:"),
    "name and description": lambda text: f"name: n\ndescription: d\n{text}",
    "executor": lambda text: f"executor: {{kind: threads, threads: 1}}\n{text}",
    "another output": lambda text: text.replace("o.csv", "p.parquet"),
    "other branches": lambda text: (
        text
        + "  m: {from: g, aggregate: {m: max(s)}}\n  r: {from: a, aggregate: {m: max(y)}}\n  o2: {write: '${run}/m.csv'}\n"
    ),
    "retries": lambda text: text.replace("{filter: x > 10}", "{filter: x > 10, retries: 7, timeout: 5 min}"),
    "the same glob in other words": lambda text: text.replace("data/*.csv", "data/0*.csv"),
}
OTHER = {
    "an expression": lambda text: text.replace("x > 10", "x > 11"),
    "a type": lambda text: text.replace("y: float64", "y: float32").replace("y + 1", "y + 2"),
    "columns' order": lambda text: text.replace("s: sum(z)", "t: max(z), s: sum(z)"),
    "an input type": lambda text: text.replace("x: int64", "x: int32"),
    "a step more": lambda text: text.replace("  d:", "  s: {sample: 0.5}\n  d:"),
    "fewer files": lambda text: text.replace("data/*.csv", "data/*[0-4].csv"),
}
Change = Callable[[str], str]


def keys(project: Path, text: str) -> set[str]:
    (project / "c.yaml").write_text(text)
    return {name.path for _, _, name in names(cut(load(project / "c.yaml").plan()))}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_cannot_change_the_answer_does_not_change_the_key(project: Path, change: Change) -> None:
    data(project)
    assert change(BASE) != BASE
    assert keys(project, change(BASE)) == keys(project, BASE)


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_can_change_the_answer_changes_the_key(project: Path, change: Change) -> None:
    data(project)
    assert change(BASE) != BASE
    assert not keys(project, change(BASE)) & keys(project, BASE)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(SAME)), unique=True), st.lists(st.sampled_from(sorted(OTHER)), max_size=1))
def test_keys_of_several_changes(tmp_path_factory: pytest.TempPathFactory, same: list[str], other: list[str]) -> None:
    project = data(tmp_path_factory.mktemp("keys"), rows=20)
    text = BASE
    for name in other:
        text = OTHER[name](text)
    for name in same:
        text = SAME[name](text)
    assert (keys(project, text) == keys(project, BASE)) == (not other)


def test_data_and_versions_change_the_key(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(project)
    before = keys(project, BASE)
    os.utime(project / "data/0002.csv", ns=(1, 1))
    after = keys(project, BASE)
    assert not before & after
    monkeypatch.setattr("pipelines.kernel.VERSION", "polars-9.9-1")
    assert not keys(project, BASE) & after


LEAVES = st.sampled_from([None, math.inf, -math.inf, math.nan, 0, 0.0, -0.0, 1, True, "null", "NaN", "mapping", "list"])
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "list"]), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=500, deadline=None)
@given(NESTED, NESTED)
def test_other_arguments_are_another_key_and_equal_ones_the_same(one: Any, other: Any) -> None:
    """Not by equality: NaN is the same as itself, 0.0 is not -0.0, and a function sees the order of a mapping."""
    plain = repr(one) == repr(other)
    unordered = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    steps: list[tuple[type[Step], str, dict[str, Any], bool]] = [
        (Simulate, "arguments", {"paths": 1}, plain),
        (Map, "arguments", {"function": "m:f", "items": [1]}, plain),
        (Python, "arguments", {"function": "m:f"}, plain),
        (Train, "params", {"estimator": "E"}, unordered),
        (Search, "params", {"estimator": "E", "grid": {"a": [1]}}, unordered),
        (CrossValidate, "params", {"estimator": "E"}, unordered),
    ]
    for kind, option, needed, same in steps:
        keys = [digest(kind(**needed, **{option: {"w": value}}).identity()) for value in (one, other)]
        assert (keys[0] == keys[1]) == same


def test_a_grid_with_infinities(project: Path) -> None:
    keys = {digest(Search(estimator="E", grid={"w": [value]}).identity()) for value in (None, math.inf, -math.inf)}
    assert len(keys) == 3


def test_versions_of_what_computes_change_the_key(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(project)
    save = "  m: {train: {estimator: sklearn.linear_model.LinearRegression, target: y, columns: [x]}}\n  s: {save_model: m.model}\n"
    run(config(project, '  r: {read: "data/*.csv"}\n' + save))
    steps = """
  r: {read: "data/*.csv"}
  l: {load_model: m.model}
  q: {predict: {}, from: [r, l]}
  e: {evaluate: {part: all}, from: [r, l]}
  a: {to_array: [x, y], from: r}
  z: {standardize: {}, from: a}
  p: {pca: 1, from: a}
  n: {array: a + 1, from: a}
  d: {array: a.T, from: a}
  u: {reduce: {values: {n: mean}}, from: a}
  f: {features: {scale: [x]}, from: r}
  b: {simulate: {paths: 9, assets: {A: {volatility: 1}}}}
"""

    def identities() -> dict[str, str]:
        return {name: node.identity for name, node in load(config(project, steps)).plan().nodes.items()}

    def changed(package: str) -> set[str]:
        other = functools.partial(lambda real, name: "99" if name == package else real(name), versions.version)
        with monkeypatch.context() as patched:
            for module in ("pipelines.plan", "pipelines.learning.estimators"):
                patched.setattr(f"{module}.version", other)
            return {name for name, identity in identities().items() if identity != before[name]}

    before = identities()
    assert changed("numpy") == set(before) - {"r"}
    assert changed("scikit-learn") == {"l", "q", "e"}
    assert changed("dask") == {"z", "p", "d"}


def test_code_changes_the_key_also_that_of_modules_it_imports(project: Path) -> None:
    text = 'steps:\n  m: {map: {function: "mine:f", items: [1, 2]}, checkpoint: disk}\n'
    (project / "mine.py").write_text("import helper\ndef f(i: int) -> int:\n    return helper.g(i)\n")
    (project / "helper.py").write_text("def g(i):\n    return i\n")
    first = keys(project, text)
    (project / "helper.py").write_text("def g(i):\n    return i + 1\n")
    assert not keys(project, text) & first
    (project / "other.py").write_text("x = 1\n")
    (project / "helper.py").write_text("def g(i):\n    return i\n")
    assert keys(project, text) == first


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: one(p / "data/0001.csv", 9, 30), "the input file 0001.csv changed"),
        (lambda p: one(p / "data/9.csv", 9, 30), "the input file 9.csv is new"),
        (lambda p: (p / "data/0001.csv").unlink(), "the input file 0001.csv is gone"),
        (lambda p: config(p, STEPS.replace("x > 10", "x > 20")), "the step big changed"),
        (lambda p: config(p, STEPS.replace("  big", "  few: {sample: 0.9}\n  big")), "the step few is new"),
    ],
)
def test_a_run_says_why_it_computes(project: Path, change: Callable[[Path], object], why: str) -> None:
    path = config(data(project))
    run(path)
    change(project)
    _, said = run(path)
    assert any(text.startswith("by_k: computed") and text.endswith(f": {why}") for text in said), said


def test_another_kernel_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(data(project))
    run(path)
    monkeypatch.setattr("pipelines.kernel.VERSION", "polars-2.2.0-2")
    assert "by_k: computed: Polars 2.1.0 → Polars 2.2.0" in run(path)[1]


def test_all_types_come_back(project: Path, pipeline: Callable[..., Pipeline]) -> None:
    import datetime as dt
    from decimal import Decimal

    frame = pl.DataFrame(
        {
            "i": pl.Series([1, None], dtype=pl.Int8),
            "u": pl.Series([2**64 - 1, None], dtype=pl.UInt64),
            "f": pl.Series([float("nan"), -0.0], dtype=pl.Float32),
            "s": ["", None],
            "b": [b"\x00", None],
            "d": [dt.date(1, 1, 1), None],
            "t": pl.Series([dt.datetime(2020, 1, 1), None], dtype=pl.Datetime("ns", "Europe/Berlin")),
            "e": [dt.timedelta(-1), None],
            "c": pl.Series([Decimal("1.20"), None], dtype=pl.Decimal(20, 2)),
            "l": [[1, None], []],
            "r": [{"x": 1}, None],
            "g": pl.Series(["x", None], dtype=pl.Categorical),
            "n": pl.Series([None, None], dtype=pl.Null),
        }
    )
    frame.write_parquet(project / "all.parquet")
    made = pipeline("  a: {read: all.parquet, checkpoint: disk}\n  f: {sample: 1.0}\n")
    first, again = (made.run("serial").outputs["f"].head for _ in range(2))
    assert first.schema == again.schema
    assert first.equals(again)
    assert str(first["f"].to_list()) == "[nan, -0.0]"


def test_manifests_are_read_strictly() -> None:
    for text in (b"", b"{}", b"[]", b"1", b'{"schema": 1, "layout": 2}', b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            Manifest.of(text)


# ---- what users do


def mean_of(result: Result, step: str = "t") -> list[Any]:
    return result.outputs[step].head.row(0)  # type: ignore[return-value]


def test_the_order_of_assets_and_of_arguments_is_part_of_the_key(project: Path) -> None:
    """Columns and correlations go by it."""
    asset = "{start: %d, drift: 0, volatility: 0}"
    one, other = f"A: {asset % 1}", f"B: {asset % 1000}"
    for assets, columns, expected in ((f"{one}, {other}", "[A, B]", (1.0, 1000.0)), (f"{other}, {one}", "[B, A]", (1000.0, 1.0))):  # fmt: skip
        steps = f"  p: {{simulate: {{paths: 10, assets: {{{assets}}}}}, checkpoint: disk}}\n  t: {{from_array: {{columns: {columns}}}}}\n"
        assert mean_of(run(config(project, steps))[0]) == expected
    (project / "mine.py").write_text("import numpy as np\ndef first(rng, n, w): return np.full(n, list(w.values())[0])\n")  # fmt: skip
    for w, expected in (("{a: 1, b: 2}", (1.0,)), ("{b: 2, a: 1}", (2.0,))):
        steps = f"  p: {{simulate: {{paths: 10, function: 'mine:first', arguments: {{w: {w}}}}}, checkpoint: disk}}\n  t: {{from_array: {{columns: [x]}}}}\n"
        assert mean_of(run(config(project, steps))[0]) == expected


def test_chunks_of_another_size_are_other_chunks(project: Path) -> None:
    def counted(chunk: int) -> Any:
        asset = "A: {start: 1, volatility: 0.2}"
        steps = f"  p: {{simulate: {{paths: 100000, assets: {{{asset}}}, chunk: {chunk}}}, checkpoint: disk}}\n"
        return run(config(project, steps + "  m: {reduce: {values: {n: count, s: sum}}}\n"))[0].outputs["m"].metrics

    first = counted(65536)
    smaller = min(project.glob(f"runs/.store/{FORMAT}/*/*.parquet"), key=lambda path: path.stat().st_size)
    smaller.unlink()
    assert counted(81920) == first == {"n": 100_000.0, "s": first["s"]}


def test_the_order_of_a_grid_means_nothing(project: Path) -> None:
    rows = "".join(f"{i},{i * 7 % 11},{(i * i) % 3}\n" for i in range(300))
    (project / "t.csv").write_text("a,b,y\n" + rows)

    def found(grid: str) -> Any:
        search = f"search: {{estimator: sklearn.tree.DecisionTreeClassifier, target: y, grid: {{{grid}}}, trials: 2}}"
        return (
            run(config(project, f"  t: {{read: t.csv}}\n  m: {{{search}}}\n"), fresh=True)[0].outputs["m"].head.rows()
        )

    assert found("max_depth: [1, 2, 3, 4], min_samples_leaf: [5, 20, 50]") == found("min_samples_leaf: [5, 20, 50], max_depth: [1, 2, 3, 4]")  # fmt: skip


def test_a_link_that_leads_elsewhere_is_another_file(project: Path) -> None:
    for name, text in (("v1", "a\n1\n"), ("v2", "a\n9\n")):
        (project / name).mkdir()
        (project / name / "t.csv").write_text(text)
        os.utime(project / name / "t.csv", (1e9, 1e9))
    (project / "mine.py").write_text(
        "import pathlib\ndef text(path: str) -> str: return pathlib.Path(path).read_text()\n"
    )
    steps = "  t: {read: cur/t.csv, checkpoint: disk}\n  m: {map: {function: 'mine:text', files: 'cur/*.csv'}, checkpoint: disk}\n"
    for name, expected in (("v1", 1), ("v2", 9), ("v1", 1)):
        (project / "cur").unlink(missing_ok=True)
        (project / "cur").symlink_to(name)
        result, _ = run(config(project, steps))
        assert result.outputs["t"].head["a"].to_list() == [expected]
        assert result.outputs["m"].head["result"].to_list() == [f"a\n{expected}\n"]


def test_a_file_that_changes_while_it_is_mapped_is_not_kept(project: Path) -> None:
    (project / "f.txt").write_text("old")
    (project / "mine.py").write_text(
        "import pathlib\ndef swapped(path: str) -> str:\n    pathlib.Path(path).write_text('newer')\n    return pathlib.Path(path).read_text()\n"
    )
    steps = "  m: {map: {function: 'mine:swapped', files: '*.txt'}, checkpoint: disk}\n"
    with pytest.raises(DataError, match=r"f.txt has changed since the plan was made"):
        run(config(project, steps))
    assert not list(project.glob(f"runs/.store/{FORMAT}/*/*.parquet"))


def test_a_manifest_with_a_flipped_bit_is_not_trusted(project: Path) -> None:
    (project / "t.csv").write_text("a\n1\n2\n3\n")
    path = config(project, "  t: {read: t.csv, checkpoint: disk}\n")
    run(path)
    (manifest,) = (
        path for path in project.glob(f"runs/.store/{FORMAT}/*/*.json") if path.parent.name not in ("uses", "steps")
    )
    manifest.write_text(manifest.read_text().replace('"rows": 3', '"rows": 7'))
    _, said = run(path)
    assert any("its manifest cannot be read" in text for text in said), said


def test_metrics_from_the_store_are_those_that_were_kept(project: Path) -> None:
    (project / "t.csv").write_text("a\n1\n2\n7\n")
    steps = "  t: {read: t.csv}\n  x: {to_array: [a]}\n  m: {reduce: {values: {n: count}}, checkpoint: disk}\n"
    first, again = (run(config(project, steps))[0].outputs["m"].head for _ in range(2))
    assert again.equals(first)
    assert again.schema == first.schema


def test_gc_removes_notes_that_cannot_be_read(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (project / "t.csv").write_text("a\n1\n")
    path = config(project, "  t: {read: t.csv, checkpoint: disk}\n")
    run(path)
    note = project / f"runs/.store/{FORMAT}/uses/torn.json"
    note.write_text('{"host": "x')
    monkeypatch.chdir(project)
    assert main(["store", "gc", "--older-than", "0"]) == 0
    assert not note.exists()
    for days in ("nan", "-1", "inf", "x"):
        with pytest.raises(SystemExit):
            main(["store", "gc", f"--older-than={days}"])
    assert "is no number of days" in capsys.readouterr().err
