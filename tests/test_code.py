"""The user's code: found beside the config, shipped by content, imported anew when it changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import ConfigError, MachineError, code
from pipelines.code import FunctionError, find
from pipelines.pipeline import Pipeline, load
from pipelines.plan import Plan
from pipelines.run import execute

Make = Callable[..., Pipeline]
MAP = "  it:\n    map: {function: %s, items: [1, 2, 3], returns: int64}\n"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in set(sys.modules) - set(before):
        if isinstance(getattr(sys.modules[name], "__loader__", None), code._Loader):  # NumPy cannot be imported twice
            del sys.modules[name]


def results(made: Pipeline | Plan, executor: str) -> list[Any]:
    plan = made.plan() if isinstance(made, Pipeline) else made
    return execute(plan, executor).outputs["it"].head["result"].to_list()


@pytest.mark.parametrize("executor", ["serial", "threads", "processes", "local"])
def test_modules_packages_and_relative_imports(project: Path, executor: str) -> None:
    (project / "mine" / "deep").mkdir(parents=True)
    (project / "configs").mkdir()
    (project / "configs" / "beside.py").write_text(
        "from mine.deep import thrice\nimport plain.names as p\n\ndef f(x: int) -> int:\n    import late\n    return thrice.it(x) + p.ONE + late.TEN\n"
    )
    (project / "mine" / "__init__.py").write_text("TIMES = 3\n")
    (project / "mine" / "deep" / "__init__.py").write_text("from .. import TIMES\nfrom . import thrice\n")
    (project / "mine" / "deep" / "thrice.py").write_text(
        "from . import TIMES\nfrom ..other import times\n\ndef it(x):\n    return times(x, TIMES)\n"
    )
    (project / "mine" / "other.py").write_text("def times(a, b):\n    return a * b\n")
    (project / "plain").mkdir()  # without __init__.py
    (project / "plain" / "names.py").write_text("ONE = 1\n")
    (project / "late.py").write_text("TEN = 10\n")
    (project / "configs" / "c.yaml").write_text("steps:\n" + MAP % "beside:f")
    made = load(project / "configs" / "c.yaml").plan()
    for path in project.rglob("*.py"):
        path.unlink()  # what was read for the plan is what runs
    assert results(made, executor) == [14, 17, 20]


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_changed_code_is_imported_anew(pipeline: Make, project: Path, executor: str) -> None:
    (project / "helper.py").write_text("N = 1\n")
    (project / "mine.py").write_text("import helper\n\ndef f(x: int) -> int:\n    return x + helper.N\n")
    first = pipeline(MAP % "mine:f").plan()
    assert results(first, executor) == [2, 3, 4]
    (project / "helper.py").write_text("N = 100\n")
    second = pipeline(MAP % "mine:f").plan()
    assert results(second, executor) == [101, 102, 103]
    assert first.nodes["it"].identity != second.nodes["it"].identity
    assert results(first, executor) == [2, 3, 4], "a plan runs what it was made from"
    (project / "unused.py").write_text("")
    assert pipeline(MAP % "mine:f").plan().nodes["it"].identity == second.nodes["it"].identity


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("from p import *\ndef f(x: int) -> int:\n    return x + b.N\n", "mine"),
        ("import importlib\nb = importlib.import_module('p.b')\ndef f(x: int) -> int:\n    return x + b.N\n", "mine"),
        ("b = __import__('p.b').b\ndef f(x: int) -> int:\n    return x + b.N\n", "mine"),
        ("from importlib import import_module\nb = import_module('.b', __package__)\ndef f(x: int) -> int:\n    return x + b.N\n", "p.mine"),
        ("import importlib\ndef f(x: int) -> int:\n    try:\n        importlib.import_module('/\\0 x')\n    except Exception:\n        from p import b\n        return x + b.N\n", "mine"),
    ],
    ids=["star", "import_module", "__import__", "relative", "no name"],
)  # fmt: skip
def test_modules_that_are_named_by_texts_are_code_too(pipeline: Make, project: Path, module: str, name: str) -> None:
    (project / "p").mkdir()
    (project / "p" / "__init__.py").write_text("__all__ = ['b']\n")
    (project / "p" / "b.py").write_text("N = 1\n")
    project.joinpath(*name.split(".")).with_suffix(".py").write_text(module)
    first = pipeline(MAP % f"{name}:f").plan()
    assert results(first, "serial") == [2, 3, 4]
    (project / "p" / "b.py").write_text("N = 100\n")
    second = pipeline(MAP % f"{name}:f").plan()
    assert results(second, "serial") == [101, 102, 103]
    assert first.nodes["it"].identity != second.nodes["it"].identity


def test_what_the_process_imported_itself_stays(pipeline: Make, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "notebook.py").write_text("STATE = []\n\ndef f(x: int) -> int:\n    STATE.append(x)\n    return x\n")
    monkeypatch.syspath_prepend(project)
    import notebook  # type: ignore[import-not-found]

    assert results(pipeline(MAP % "notebook:f"), "serial") == [1, 2, 3]
    assert sys.modules["notebook"] is notebook
    assert notebook.STATE == []


def test_names_of_the_standard_library_and_of_installed_packages(pipeline: Make, project: Path) -> None:
    (project / "math.py").write_text("raise SystemExit(1)\n")
    (project / "polars").mkdir()
    (project / "polars" / "note.py").write_text("")
    (project / "mine.py").write_text(
        "import math, polars\n\ndef f(x: int) -> int:\n    return int(polars.Series([math.isqrt(x)])[0])\n"
    )
    assert results(pipeline(MAP % "mine:f"), "serial") == [1, 1, 1]
    assert results(pipeline(MAP % "math:isqrt"), "serial") == [1, 1, 1]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("import nothing_of_that_name\n", "importing mine failed: there is no module 'nothing_of_that_name'"),
        ("def f(x:\n", "mine.py, line 1: "),
        ("raise ValueError('no')\n", "importing mine failed: ValueError: no"),
        ("import sys\nsys.exit(3)\n", "importing mine failed: SystemExit: 3"),
        ("g = 1\nthing = g.nothing\n", "importing mine failed: 'int' object has no attribute 'nothing'"),
        ("def ff(x: int) -> int: ...\n", "did you mean 'ff'?"),
        ("f = 1\n", "mine:f is not a function"),
        ("\0", "mine: source code string cannot contain null bytes"),
    ],
)
def test_modules_with_mistakes(pipeline: Make, project: Path, module: str, expected: str) -> None:
    (project / "mine.py").write_text(module)
    with pytest.raises(ConfigError) as caught:
        pipeline(MAP % "mine:f").plan()
    assert expected in str(caught.value)
    assert caught.value.issues[0].place is not None
    (project / "mine.py").write_text("def f(x: int) -> int:\n    return x\n")
    assert results(pipeline(MAP % "mine:f"), "serial") == [1, 2, 3], "a mended module is imported anew"


def test_an_import_that_fails_on_a_worker_names_module_and_worker(pipeline: Make, project: Path) -> None:
    (project / "mine.py").write_text(
        f"import os\nif os.getpid() != {os.getpid()}:\n    import only_at_home\n\ndef f(x: int) -> int:\n    return x\n"
    )
    with pytest.raises(MachineError) as caught:
        pipeline(MAP % "mine:f").run("processes")
    assert "cannot import mine on the worker tcp://" in str(caught.value)
    assert "No module named 'only_at_home'" in str(caught.value)


def test_data_beside_a_module(pipeline: Make, project: Path) -> None:
    (project / "factor.txt").write_text("7")
    (project / "mine.py").write_text(
        "from pathlib import Path\n\ndef f(x: int) -> int:\n    return x * int(Path(__file__).with_name('factor.txt').read_text())\n"
    )
    assert results(pipeline(MAP % "mine:f"), "processes") == [7, 14, 21]


def test_errors_show_the_user_their_own_line(pipeline: Make, project: Path) -> None:
    (project / "mine.py").write_text("def f(x: int) -> int:\n    return 1 // 0\n")
    script = "import sys, traceback\nfrom pathlib import Path\nfrom pipelines import code\n" + (
        "_, f = code.find('mine:f', [Path(sys.argv[1])])\ntry:\n    f(1)\nexcept ZeroDivisionError:\n    traceback.print_exc()\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, str(project)], capture_output=True, text=True, check=True
    ).stderr
    assert 'mine.py", line 2, in f\n    return 1 // 0' in shown


def test_collecting_reads_only_what_is_imported(project: Path) -> None:
    (project / "a.py").write_text("import b, os.path, numpy\n")
    (project / "b.py").write_text("from c import *\nfrom . import nothing\n")
    (project / "c.py").write_text("try:\n    import a\nexcept ImportError:\n    pass\n")
    (project / "d.py").write_text("")
    assert [module.name for module in code.collect("a", [project]).modules] == ["a", "b", "c"]


def test_a_missing_module_of_a_package_belongs_into_its_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("")
    with pytest.raises(FunctionError) as caught:
        find("tools.absent:f", [tmp_path / "below", tmp_path])
    assert caught.value.message == "there is no module 'tools.absent'"
    assert caught.value.remedy == f"put absent.py into {tmp_path / 'tools'}"


@pytest.mark.parametrize("executor", ["serial", "threads", "processes"])
def test_functions_of_several_modules_import_and_pickle_when_called(tmp_path: Path, executor: str) -> None:
    (tmp_path / "runs").mkdir()
    shown = "import dataclasses, pickle\nimport shared\n@dataclasses.dataclass\nclass Box:\n    x: int\n"
    for i in (1, 2):
        text = f"def f(item):\n    import late{i}\n    return pickle.loads(pickle.dumps(Box(late{i}.X + shared.S(item).x))).x\n"
        (tmp_path / f"mine{i}.py").write_text(shown + text)
        (tmp_path / f"late{i}.py").write_text(f"X = {i}00\n")
    (tmp_path / "shared.py").write_text("class S:\n    def __init__(self, x):\n        self.x = x\n")
    steps = [f"  m{i}:\n    map: {{function: 'mine{i}:f', items: [1, 2], returns: int64}}\n" for i in (1, 2)]
    steps.append("  m3:\n    map: {function: 'math:isqrt', items: [9], returns: int64}\n")
    (tmp_path / "c.yaml").write_text("steps:\n" + "".join(steps))
    outputs = load(tmp_path / "c.yaml").run(executor).outputs
    assert outputs["m1"].head.rows() == [(1, 101, None), (2, 102, None)]
    assert outputs["m2"].head.rows() == [(1, 201, None), (2, 202, None)]
    assert outputs["m3"].head.rows() == [(9, 3, None)]
