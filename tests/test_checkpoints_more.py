"""`checkpoint: disk`: what a review found."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines import checkpoint, load
from pipelines.checkpoint import FORMAT, store_of
from pipelines.passes import PASSES, Layout
from pipelines.run import Result
from pipelines.stores import contents

Steps = dict[str, Any]


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in a partition, and three partitions behind every exchange."""
    monkeypatch.setattr("pipelines.scan._FILES_PER_PARTITION", 1)
    monkeypatch.setattr("pipelines.run.Layout", lambda: Layout(frozenset(PASSES), 3))


@pytest.fixture
def run(project: Path) -> Callable[..., tuple[Result, list[str]]]:
    table = {"k": [i % 5 for i in range(60)], "j": [i % 7 for i in range(60)], "x": list(range(60))}
    for name in "ab":
        pl.DataFrame(table).write_parquet(project / f"{name}.parquet", row_group_size=10)

    def go(steps: Steps, **options: Any) -> tuple[Result, list[str]]:
        reads = {name: {"read": {"path": f"{name}.parquet", "partitions": 4}} for name in "ab"}
        (project / "c.yaml").write_text(json.dumps({"name": "c", "steps": {**reads, **steps}}))
        said = list[str]()
        return load(project / "c.yaml").run("serial", say=said.append, head=1000, **options), said

    return go


def again(run: Any, steps: Steps, end: str) -> list[str]:
    """What a run says that must give what one without the store gives."""
    found, said = run(steps, to=end)
    fresh, _ = run(steps, to=end, fresh=True)
    assert found.outputs[end].head.equals(fresh.outputs[end].head), said
    return list(said)


def files(project: Path) -> list[Path]:
    return sorted((project / "runs/.store" / FORMAT).glob("*/*.parquet"))


@pytest.mark.parametrize("lost", range(3))
def test_the_order_of_a_joins_keys_is_another_layout(run: Any, project: Path, lost: int) -> None:
    def steps(on: dict[str, str]) -> Steps:
        return {"e": {"from": ["a", "b"], "join": {"on": on, "broadcast": False}, "checkpoint": "disk"}}

    run(steps({"k": "k", "j": "j"}))
    assert len(files(project)) == 3
    files(project)[lost].unlink()
    again(run, steps({"j": "j", "k": "k"}), "e")


@pytest.mark.parametrize("new", ["k,x\n1,2020-01-01 10:00:00\n", "k,x,more\n1,2020-01-01,1\n2,2020-01-02,2\n"])
def test_a_union_gives_all_its_tables_columns_and_types(run: Any, project: Path, new: str) -> None:
    for name in "cd":
        (project / f"{name}.csv").write_text("k,x\n" + "".join(f"{i},2020-01-01\n" for i in range(20)))
    steps = {
        "c": {"read": "c.csv"},
        "d": {"read": "d.csv"},
        "u": {"from": ["c", "d"], "union": {"missing": None}},
        "s": {"sample": {"fraction": 0.5}},
        "t": {"derive": {"y": "cast(x as string)"}},
        "e": {"select": ["k", "y"], "checkpoint": "disk"},
    }
    run(steps)
    (project / "d.csv").write_text(new)
    again(run, steps, "e")


def test_the_separator_that_all_files_endings_mean(run: Any, project: Path) -> None:
    (project / "d").mkdir()
    (project / "d/a.tsv").write_text("a\nx\ny,1\n")
    read = {"path": "d/*", "ragged": None, "dtypes": {"a": "string"}}
    steps = {"e": {"read": read, "checkpoint": "disk"}}
    run(steps)
    (project / "d/b.csv").write_text("a\nz\n")
    again(run, steps, "e")


def test_a_function_sees_the_order_of_its_arguments(run: Any, project: Path) -> None:
    (project / "m.py").write_text("def f(i: int, **names) -> str:\n    return ','.join(names)\n")
    for given in ({"b": 1, "a": 2}, {"a": 2, "b": 1}):
        again(run, {"m": {"map": {"function": "m:f", "items": [1], "arguments": given}, "checkpoint": "disk"}}, "m")


def test_another_secret_is_another_table(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_SECRET", "tenant one")
    monkeypatch.setenv("OTHER_SECRET", "tenant two")
    for name in ("FIRST_SECRET", "OTHER_SECRET"):
        again(run, {"e": {"from": "a", "derive": {"t": f"'${{secret:{name}}}'"}, "checkpoint": "disk"}}, "e")


def test_an_installed_packages_other_modules_are_code_too(
    run: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.code import collect

    package = tmp_path_factory.mktemp("site") / "installed_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def f(i: int) -> int:\n    return i\n")
    monkeypatch.syspath_prepend(str(package.parent))
    before = collect("installed_pkg.inner", []).digest
    (package / "inner.py").write_text("def f(i: int) -> int:\n    return i + 1\n")
    assert collect("installed_pkg.inner", []).digest != before
    sys.modules.pop("installed_pkg", None)


@pytest.mark.parametrize("step", [{"sort": {"by": "x"}}, {"window": {"partition_by": "k", "n": "row_number()"}}])
def test_what_is_written_just_behind_an_exchange(run: Any, step: Steps) -> None:
    write = {"path": "${run}/o", "format": "parquet", "per_partition": True}
    steps = {"q": {"from": "a", "filter": "x >= 0", "checkpoint": "disk"}, "s": step, "o": {"write": write}}
    first, second = (run(steps, to="o")[0].outputs["o"].path for _ in range(2))
    assert [f.read_bytes() for f in sorted(first.iterdir())] == [f.read_bytes() for f in sorted(second.iterdir())]


def test_any_number_of_damaged_partitions(run: Any, project: Path) -> None:
    steps = {"e": {"from": "a", "filter": "x >= 0", "checkpoint": "disk"}, "n": {"aggregate": {"n": "count(*)"}}}
    run({"a": {"read": {"path": "a.parquet", "partitions": 9}}, **steps}, to="n")
    for path in files(project):
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        path.write_bytes(content)
    _, said = run({"a": {"read": {"path": "a.parquet", "partitions": 9}}, **steps}, to="n")
    assert sum("not what was written" in text for text in said) == len(files(project))


@pytest.mark.parametrize("text", ["[]", "1", "{}", '{"kernel": 1, "files": [], "steps": 3}', "", "\xff"])
def test_any_lineage_file(run: Any, project: Path, text: str) -> None:
    steps = {"e": {"from": "a", "filter": "x >= 0", "checkpoint": "disk"}}
    run(steps, to="e")
    (project / "runs/.store" / FORMAT / "steps/c.e.json").write_bytes(text.encode("latin-1"))
    again(run, steps, "e")


@pytest.mark.parametrize("what", [".parquet", ".json", "steps/"])
def test_a_connection_that_ends_while_the_store_is_read(
    run: Any, project: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    steps = {"e": {"from": "a", "filter": "x >= 0", "checkpoint": "disk"}, "n": {"aggregate": {"n": "count(*)"}}}
    run(steps, to="n")
    files_ = checkpoint._file_system(str(project / "runs/.store"), "{}")
    original, times = files_.cat_file, list[str]()

    def flaky(path: str, *given: Any, **more: Any) -> Any:
        if what in path and len(times) < 2:
            times.append(path)
            raise ConnectionResetError(104, "Connection reset by peer")
        return original(path, *given, **more)

    monkeypatch.setattr(files_, "cat_file", flaky)
    _, said = run(steps, to="n")
    assert len(times) == 2
    assert any(text.startswith("e: reused") for text in said)


def test_a_name_too_long_for_a_file(run: Any) -> None:
    steps = {"é" * 150: {"from": "a", "filter": "x > 3", "checkpoint": "disk"}}
    assert "nothing is stored yet" in run(steps, to="é" * 150)[1][0]
    assert "reused" in run(steps, to="é" * 150)[1][0]


def test_a_text_that_is_a_secrets_by_chance_counts(run: Any, monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr("pipelines.errors._secrets", set())
    monkeypatch.setattr("pipelines.errors._names", {})
    (project / "m.py").write_text("def f(i: int, password: str) -> int:\n    return i\n")

    def steps(text: str) -> Steps:
        call = {"function": "m:f", "items": [1], "arguments": {"password": "${secret:DBPW}"}}
        return {
            "e": {"from": "a", "derive": {"t": f"'{text}' || '${{secret:DBPW}}'"}, "checkpoint": "disk"},
            "f": {"from": "a", "derive": {"t": f"'{text}'"}, "checkpoint": "disk"},
            "m": {"map": call, "checkpoint": "disk"},
        }

    for secret in ("prod", "test"):
        monkeypatch.setenv("DBPW", secret)
        for end in "ef":
            again(run, steps(secret), end)
    monkeypatch.setenv("DBPW", "hunter1")
    run(steps("prod"))
    monkeypatch.setenv("DBPW", "hunter2")
    _, said = run(steps("prod"))
    assert {"f: reused, 4 partitions", "m: reused, 1 partition"} <= set(said)


def test_a_pipeline_object_sees_what_changed_since(run: Any, project: Path) -> None:
    run({"n": {"from": "a", "aggregate": {"n": "count(*)"}, "checkpoint": "disk"}}, to="n")
    pipeline = load(project / "c.yaml")
    for rows in (60, 50, 40):
        pl.DataFrame({"k": range(rows), "j": range(rows), "x": range(rows)}).write_parquet(project / "a.parquet")
        assert pipeline.run("serial", to="n").outputs["n"].head.rows() == [(rows,)]


def test_the_record_of_a_run_that_met_damage(run: Any, project: Path) -> None:
    (project / "m.py").write_text(
        "import polars as pl\ndef f(t: pl.DataFrame) -> pl.DataFrame: return t\ndef g(t: pl.DataFrame) -> pl.DataFrame: return t\n"
    )
    steps = {
        "f": {"from": "a", "python": {"function": "m:f", "like": "input"}, "checkpoint": "disk"},
        "g": {"from": "a", "python": {"function": "m:g", "like": "input"}, "checkpoint": "disk"},
        "n": {"from": ["f", "g"], "union": {}},
    }
    run(steps)
    manifests = {
        path: json.loads(path.read_text())
        for path in (project / "runs/.store" / FORMAT).glob("*/*.json")
        if len(path.parent.name) == 16
    }
    for path, facts in manifests.items():
        if facts["step"] == "f":
            path.unlink()
    last = max((path for path, facts in manifests.items() if facts["step"] == "g"), key=lambda p: manifests[p]["layout"])  # fmt: skip
    file = last.with_name(f"{last.stem}.{manifests[last]['checksum'][:16]}.parquet")
    file.write_bytes(file.read_bytes()[:-20] + b"x" * 20)
    result, _ = run(steps)
    record = json.loads((result.folder / "record.json").read_text())
    assert record["kept"]["f"]["partitions"] == 4
    assert [stage["rows"] for stage in record["stages"] if "f" in stage["steps"]] == [60]


def test_states_with_other_columns_are_others(run: Any) -> None:
    """What is fused above a step decides which columns its states have."""
    first = {"s": {"from": "a", "sort": {"by": ["x"], "limit": 20}, "checkpoint": "disk"}}
    other = {
        "s": {"from": "a", "sort": {"by": ["x"], "limit": 20}},
        "w": {"window": {"partition_by": "k", "order_by": "x", "y": "row_number()"}, "checkpoint": "disk"},
        "n": {"select": ["x", "y"]},
    }
    for steps, end in ((first, "s"), (other, "n"), (first, "s"), (other, "n")):
        _, said = run(steps, to=end)
        assert not [text for text in said if "not trusted" in text]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"check": ' + "[" * 100_000])
def test_foreign_texts_are_not_trusted(run: Any, project: Path, text: str) -> None:
    steps = {"e": {"from": "a", "derive": {"y": "x + 1"}, "checkpoint": "disk"}}
    run(steps)
    store = project / "runs/.store" / FORMAT
    for path in store.glob("*/*.json"):
        path.write_text(text)
    found, _ = run(steps)
    assert found.outputs["e"].rows == 60
    use = {"ended": None, "alive": 1, "host": platform.node(), "process": 10**30}
    (store / "uses/x.json").write_text(json.dumps(use))
    contents(store_of(load(project / "c.yaml").spec))
