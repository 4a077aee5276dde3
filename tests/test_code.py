"""The user's code: found beside the config, shipped by content, imported anew when it changed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines import ConfigError, MachineError, code
from pipelines.code import FunctionError, find, syntax
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


WAYS = {
    "from": "from helper import WHO\n    return WHO",
    "import": "import helper\n    return helper.WHO",
    "import_module": "import importlib\n    return importlib.import_module('helper').WHO",
    "by another name": "from importlib import import_module as im\n    return im(name='helper').WHO",
    "__import__": "return __import__('helper').WHO",
    "relative": "from .inner import WHO\n    return WHO",
    "from a package": "from package import inner\n    return inner.WHO",
    "in a thread": "from concurrent.futures import ThreadPoolExecutor\n    with ThreadPoolExecutor(1) as pool:\n        return pool.submit(late).result()\n\ndef late():\n    import helper\n    return helper.WHO",
}  # fmt: skip


def late_importing(root: Path, who: str, way: str = "from") -> Path:
    """A project whose function imports only when it is called."""
    (root / "package").mkdir(parents=True, exist_ok=True)
    (root / "package" / "__init__.py").write_text("")
    (root / "package" / "mods.py").write_text(f"def who(item: int) -> str:\n    {WAYS[way]}\n")
    (root / "helper.py").write_text(f"WHO = '{who}'\n")
    (root / "package" / "inner.py").write_text(f"WHO = '{who}'\n")
    (root / "c.yaml").write_text(
        "steps:\n  it:\n    map: {function: 'package.mods:who', items: [1, 2]}\n    checkpoint: disk\n"
    )
    return root / "c.yaml"


@pytest.mark.parametrize("way", WAYS)
def test_what_is_imported_when_called_is_of_the_same_code(tmp_path: Path, way: str) -> None:
    a, b = (late_importing(tmp_path / name, name, way) for name in "AB")
    for config, who in ((a, "A"), (b, "B"), (a, "A")):
        outputs = load(config).run("serial", fresh=True).outputs
        assert outputs["it"].head["result"].to_list() == [who] * 2
    first = load(a).plan()
    for who in ("edited", "A"):
        late_importing(tmp_path / "A", who, way)
        assert results(load(a), "serial") == [who] * 2
    late_importing(tmp_path / "A", "edited again", way)
    second = load(a).plan()
    assert results(first, "serial") == ["A"] * 2
    assert results(second, "serial") == ["edited again"] * 2


def test_code_of_two_projects_on_one_cluster(tmp_path: Path) -> None:
    from distributed import LocalCluster

    a, b = (late_importing(tmp_path / name, name) for name in "AB")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        for config, who in ((a, "A"), (b, "B"), (a, "A")):
            outputs = load(config).run(cluster.scheduler_address, fresh=True).outputs
            assert outputs["it"].head["result"].to_list() == [who] * 2


def test_pickle_finds_the_classes_of_what_is_called(tmp_path: Path) -> None:
    text = "import pickle\nclass Box:\n    WHO = '%s'\n\ndef f(item: int) -> str:\n    late = pickle.loads(b'cboxes_of_test\\nBox\\n.')\n    import boxes_of_test\n    both = pickle.dumps((Box(), boxes_of_test.Box()))\n    return late.WHO + ''.join(each.WHO for each in pickle.loads(both))\n"
    for who in "AB":
        (tmp_path / who).mkdir()
        (tmp_path / who / "mine.py").write_text(text % who)
        (tmp_path / who / "boxes_of_test.py").write_text(f"class Box:\n    WHO = '{who}'\n")
    found = {who: find("mine:f", [tmp_path / who])[0] for who in "AB"}
    assert [found[who].load()(1) for who in "ABAB"] == ["AAA", "BBB", "AAA", "BBB"]


@pytest.mark.parametrize(
    "text",
    [
        "importlib.import_module(name='other.x')",
        "importlib.import_module('.x', 'other')",
        "importlib.import_module('.x', package='other')",
        "importlib.import_module(name='..x', package='other.y')",
        "im('other.x')",
        "im(package='other', name='.x')",
        "load('other.x')",
        "__import__('other', fromlist=['x']).x",
        "__import__('other', globals(), locals(), ('x',), 0).x",
        "__import__(name='other.x').x",
    ],
)
def test_modules_imported_by_calls_are_part_of_the_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("")
    (tmp_path / "mine.py").write_text(
        f"import importlib\nfrom importlib import import_module as im\nload = importlib.import_module\n\ndef f(item: int) -> int:\n    return {text}.N\n"
    )
    keys = set()
    for n in (1, 2):
        (tmp_path / "other" / "x.py").write_text(f"N = {n}\n")
        function, f = find("mine:f", [tmp_path])
        assert f(1) == n
        keys.add(function.digest)
    assert len(keys) == 2


def test_several_threads_may_read_modules_at_once() -> None:
    """Python 3.11 counts the depths of all threads' trees together; who hears of its collector lets other threads in between."""
    source = "x = " + "(" * 60 + "1" + ")" * 60 + "\n" + "y = f(a, g(b, [c, {d: e}]))\n" * 40

    def heard(*_: object) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(heard)
    gc.set_threshold(200)
    try:
        with ThreadPoolExecutor(4) as pool:
            trees = list(pool.map(lambda _: syntax(source * 20), range(60)))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(heard)
    assert len({len(tree.body) for tree in trees}) == 1  # type: ignore[attr-defined]
