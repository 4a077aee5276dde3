"""Arrays: kinds of values checked, shapes known in the plan, the same numbers everywhere, and NumPy's answers."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import polars as pl
import pytest

from pipelines import ConfigError, DataError, load
from pipelines.pipeline import Pipeline
from pipelines.run import Result
from pipelines.steps.array import Rowwise, rowwise
from pipelines.steps.simulate import _root
from pipelines.values import Array

Make = Callable[..., Pipeline]
EXECUTORS = ("serial", "threads", "processes", "local")
PATHS = "  paths: {simulate: {paths: 50000, assets: {a: {start: 100, drift: 0.05, volatility: 0.2}}, years: 0.5, seed: 3}}\n"
MANY = """  paths:
    simulate:
      paths: 70000
      assets: {a: {start: 100, drift: 0.05, volatility: 0.2}, b: {start: 50, volatility: 0.4}}
      correlation: [[1, 0.6], [0.6, 1]]
      steps: 3
      seed: 3
"""


def issue(make: Make, steps: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make(steps).plan()
    return str(caught.value)


def metrics(result: Result, step: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((result.folder / step / "metrics.json").read_text())["values"]
    return found


def test_a_wrong_kind_is_an_error_with_a_place(pipeline: Make) -> None:
    said = issue(pipeline, PATHS + "  few: {from: paths, filter: x > 0}\n")
    assert ":5:15: the step 'paths' gives an array, and `filter` takes a table" in said
    assert "no step above gives a table" in issue(pipeline, PATHS + "  few: {filter: x > 0}\n")
    assert "no step above gives an array" in issue(pipeline, "  STOCKS\n  risk: {reduce: {values: {m: mean}}}\n")


def test_shapes_and_types_are_in_the_plan_and_wrong_ones_are_errors_there(pipeline: Make) -> None:
    plan = pipeline(
        MANY + "  logs: {array: 'log(paths[:, 0] / 100)'}\n  both: {from: paths, array: 'paths @ [1, 2]'}\n"
    ).plan()
    found = {name: node.gives for name, node in plan.nodes.items()}
    assert found["paths"] == Array(((70000,), (2,)), "float64")
    assert isinstance(found["logs"], Array)
    assert isinstance(found["both"], Array)
    assert found["logs"].shape == found["both"].shape == (70000,)
    said = issue(pipeline, MANY + "  bad: {array: '1 + paths @ [1, 2, 3]'}\n")
    assert "this does not fit: shapes (70000, 2) and (3,) do not fit @" in said
    assert ":11:21:" in said
    assert "did you mean 'paths'?" in issue(pipeline, MANY + "  bad: {array: pahts + 1}\n")
    assert "did you mean 'log1p'?" in issue(pipeline, MANY + "  bad: {array: logp(paths)}\n")
    assert "cannot stand here" in issue(pipeline, MANY + "  bad: {array: 'paths.dot(2)'}\n")


def test_simulate_has_the_same_bytes_on_every_executor_and_for_every_chunk(pipeline: Make) -> None:
    values = "  loss: {array: '300 - paths @ [1, 2]'}\n  risk: {reduce: {values: {m: mean, s: std, v: value_at_risk(0.99), e: expected_shortfall(0.99)}}}\n"
    answers = list[Any]()
    whole = pipeline(MANY).compile()["paths"].compute()
    for chunk in (1, 40000, 10**9):
        made = pipeline(MANY.replace("      seed", f"      chunk: {chunk}\n      seed"))
        parts = made.compile()["paths"]
        assert np.array_equal(parts.compute(), whole)
    for executor in EXECUTORS:
        found = pipeline(MANY.replace("      seed", "      chunk: 1\n      seed") + values).run(executor)
        answers.append((found.folder / "risk" / "metrics.json").read_bytes())
    assert len(set(answers)) == 1
    loss = np.sort(300 - whole @ [1, 2])
    exact = json.loads(answers[0])["values"]
    assert exact["m"] == pytest.approx(loss.mean(), rel=1e-12)
    assert exact["s"] == pytest.approx(loss.std(ddof=1), rel=1e-12)
    assert exact["v"] == loss[math.ceil(0.99 * 70000) - 1]
    assert exact["e"] == pytest.approx(loss[math.ceil(0.99 * 70000) :].mean(), rel=1e-12)


def test_another_seed_gives_other_paths_and_correlations_are_those_asked_for(pipeline: Make) -> None:
    one = pipeline(MANY).compile()["paths"].compute()
    other = pipeline(MANY.replace("seed: 3", "seed: 4")).compile()["paths"].compute()
    assert not np.isin(one[:, 0], other[:, 0]).any()
    logs = np.log(one / [100, 50])
    assert np.corrcoef(logs.T)[0, 1] == pytest.approx(0.6, abs=0.01)
    assert logs.std(axis=0) == pytest.approx([0.2, 0.4], rel=0.01)
    assert logs.mean(axis=0) == pytest.approx([0.05 - 0.02, -0.08], abs=4 * 0.4 / math.sqrt(70000))


@pytest.mark.parametrize("seed", range(5))
def test_value_at_risk_agrees_with_the_closed_form_of_one_normal_asset(pipeline: Make, seed: int) -> None:
    """Log returns are normal: VaR and ES are known (McNeil, Frey, Embrechts 2015, examples 2.11 and 2.15)."""
    steps = (
        PATHS.replace("50000", "400000").replace("seed: 3", f"seed: {seed}")
        + "  loss: {array: '0 - log(paths[:, 0] / 100)'}\n"
    )
    steps += "  risk: {reduce: {values: {m: mean, s: std, v95: value_at_risk(0.95), v99: value_at_risk(0.99), es: expected_shortfall(0.99)}}}\n"
    found = json.loads((pipeline(steps).run("threads").folder / "risk" / "metrics.json").read_text())
    mean, spread = -(0.05 - 0.02) * 0.5, 0.2 * math.sqrt(0.5)
    z95, z99 = 1.6448536269514722, 2.3263478740408408
    density = math.exp(-z99 * z99 / 2) / math.sqrt(2 * math.pi)
    wanted = {
        "m": mean,
        "s": spread,
        "v95": mean + spread * z95,
        "v99": mean + spread * z99,
        "es": mean + spread * density / 0.01,
    }
    for name, value in wanted.items():
        assert abs(found["values"][name] - value) < 3 * found["standard_errors"][name], name


def test_standard_errors_are_the_spread_of_the_estimates(pipeline: Make) -> None:
    steps = (
        PATHS.replace("50000", "20000")
        + "  risk: {reduce: {values: {m: mean, s: std, q: quantile(0.02), v: quantile(0.9), e: expected_shortfall(0.95)}}}\n"
    )
    found = list[Any]()
    for seed in range(40):
        delayed = pipeline(steps.replace("seed: 3", f"seed: {seed}")).compile("risk")["risk"]
        found.append(delayed.compute(scheduler="sync"))
    for name in ("m", "q", "v", "e"):  # that of `s` is a normal's
        spread = np.std([each.values[name] for each in found], ddof=1)
        told = np.median([each.errors[name] for each in found])
        assert told / spread == pytest.approx(1, abs=0.35), name


def test_a_function_over_a_seeded_generator(project: Path) -> None:
    (project / "mine.py").write_text(
        "def losses(rng, paths, scale):\n    return rng.exponential(scale, (paths, 2))\n"
        "def wrong(rng, paths):\n    return rng.normal(size=(paths, 3))\n"
    )
    config = project / "c.yaml"
    text = "steps:\n  x: {simulate: {function: 'mine:losses', arguments: {scale: 2}, shape: [2], paths: 40000}}\n"
    config.write_text(text + "  r: {reduce: {values: {m: mean}}}\n")
    answers = {
        (load(config).run(executor).folder / "r/metrics.json").read_bytes() for executor in ("serial", "processes")
    }
    assert len(answers) == 1
    config.write_text("steps:\n  x: {simulate: {function: 'mine:wrong', shape: [2], paths: 10}}\n")
    with pytest.raises(DataError, match=r"shape \(10, 3\), not \(10, 2\)"):
        load(config).run("serial")


def test_table_to_array_and_back(pipeline: Make) -> None:
    steps = "  STOCKS\n  x: {to_array: [Open, High, Low, Close, Volume]}\n  s: {standardize: {}}\n  two: {pca: 2}\n"
    steps += "  t: {from_array: [first, second]}\n  few: {filter: first > 0}\n  n: {aggregate: {n: count(*), m: avg(second)}}\n"
    made = pipeline(steps)
    assert len({made.run(executor, to="n").outputs["n"].head.row(0) for executor in EXECUTORS}) == 1
    faces = made.compile("x", "s", "two")
    x = faces["x"].compute()
    assert faces["x"].dtype == np.float64
    assert x.shape == (18966, 5)
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(x)
    assert np.allclose(faces["s"].compute(), scaled, atol=1e-9)
    wanted = PCA(2).fit_transform(scaled)
    assert np.allclose(np.abs(faces["two"].compute()), np.abs(wanted), atol=1e-6)


def test_bad_options_are_issues(pipeline: Make) -> None:
    assert "unknown function 'meen'" in issue(pipeline, PATHS + "  r: {reduce: {values: {m: meen}}}\n")
    assert "a level between 0 and 1" in issue(pipeline, PATHS + "  r: {reduce: {values: {m: quantile(5)}}}\n")
    assert "not positive semidefinite" in issue(pipeline, MANY.replace("0.6", "1.5"))
    assert "it is not 2 x 2" in issue(pipeline, MANY.replace("[[1, 0.6], [0.6, 1]]", "[[1]]"))
    assert "'Symbol' is string, not a number" in issue(pipeline, "  STOCKS\n  x: {to_array: [Open, Symbol]}\n")
    assert "the array has 1 columns, 2 are named" in issue(pipeline, PATHS + "  t: {from_array: [a, b]}\n")
    assert "has only 1 columns" in issue(pipeline, PATHS + "  t: {pca: 2}\n")


BY_ROW = [
    "300 - prices @ [1, 2]",
    "prices[:, 0] * 2 > prices[:, 1]",
    "where(prices > 60, log(prices), -1) @ [[1, 2, 3], [4, 5, 6]]",
    "max(prices, axis=1) - min(prices, axis=1) + pi",
    "cumsum(prices[:, ::-1], axis=1) / maximum(prices, [70, 50])",
]
ACROSS_ROWS = [
    "prices - mean(prices, axis=0)",
    "prices[::-1]",
    "cumsum(prices, axis=0)",
    "prices[:, 0] @ prices",
    "sum(prices)",
]


@pytest.mark.parametrize("expression", BY_ROW + ACROSS_ROWS)
def test_an_expression_is_numpys_in_chunks_too(pipeline: Make, expression: str) -> None:
    made = pipeline(
        MANY.replace("paths:\n", "prices:\n", 1).replace("      seed", "      chunk: 1\n      seed")
        + f"  x: {{array: '{expression}'}}\n"
    )
    faces = made.compile("prices", "x")
    prices = faces["prices"].compute()
    names = {
        name: getattr(np, name) for name in ("where", "log", "max", "min", "cumsum", "maximum", "mean", "sum", "pi")
    }
    wanted = eval(expression, {**names, "prices": prices})
    found = faces["x"].compute()
    assert found.dtype == wanted.dtype == faces["x"].dtype
    assert np.allclose(found, wanted, rtol=1e-12)
    assert faces["x"].shape == wanted.shape
    assert isinstance(made.plan().nodes["x"].bound, Rowwise) == (expression in BY_ROW)


def test_rows_of_two_arrays_that_fit_by_chance_are_not_mixed() -> None:
    square = {"x": Array(((5, 5), (5,)), "float64"), "v": Array(((5, 5),), "float64")}
    assert rowwise(ast.parse("x[:, 0] - v", mode="eval").body, square) == Array(((5, 5),), "float64")
    assert rowwise(ast.parse("x - v", mode="eval").body, square) is None


def test_a_simulation_does_without_dasks_arrays(project: Path) -> None:
    """They take half a second to import."""
    config = project / "c.yaml"
    config.write_text(
        "steps:\n" + MANY + "  loss: {array: '300 - paths @ [1, 2]'}\n  risk: {reduce: {values: {m: mean}}}\n"
    )
    code = (
        "import sys; from pipelines import load; load(sys.argv[1]).run('threads'); print('dask.array' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=True)
    assert said.stdout.endswith("False\n")


def test_chunks_are_known_where_files_tell_their_rows(pipeline: Make, project: Path) -> None:
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"id": np.arange(5000), "a": rng.normal(size=5000), "b": rng.normal(size=5000)})
    table.write_parquet(project / "t.parquet", row_group_size=300)
    read = (
        "  t: {read: {path: t.parquet, partitions: 4}}\n  more: {derive: {c: a * b}}\n  parts: {split: {test: 0.2}}\n"
    )
    steps = (
        read
        + "  x: {to_array: [a, b, c]}\n  s: {standardize: {}}\n  two: {pca: 2}\n  back: {from_array: [p, q]}\n  y: {to_array: {dtype: float32}}\n"
    )
    steps += "  less: {from: more, filter: a > 0}\n  few: {to_array: [a, b]}\n  middle: {reduce: {values: {m: quantile(0.5)}}, from: two}\n"
    made = pipeline(steps)
    plan = made.plan()
    for name in ("x", "s", "two", "y"):
        value = plan.nodes[name].gives
        assert isinstance(value, Array)
        assert sum(n or 0 for n in value.chunks[0]) == 5000
        assert len(value.chunks[0]) == 4
    faces = made.compile("x", "s", "two", "y", "few")
    blocks = [block.shape[0] for block in dask.compute(*faces["x"].to_delayed().ravel())]
    assert tuple(blocks) == faces["x"].chunks[0] == faces["y"].chunks[0]
    assert faces["two"].shape == (5000, 2)
    assert faces["y"].dtype == np.float32
    assert np.isnan(faces["few"].shape[0])
    assert "an array of ? x 2 float64, a chunk a partition" in str(plan.nodes["few"].gives)
    counted = made.compile("few", lengths=True)["few"]
    assert counted.shape == (int((table["a"] > 0).sum()), 2)
    assert [block.shape[0] for block in dask.compute(*counted.to_delayed().ravel())] == list(counted.chunks[0])
    run = made.run("local", to="middle")
    assert metrics(run, "middle")["m"] in faces["two"].compute().ravel()


def test_without_centring_it_is_the_truncated_svd(pipeline: Make) -> None:
    faces = pipeline(
        "  STOCKS\n  x: {to_array: [Open, High, Low, Close]}\n  two: {pca: {components: 2, center: false}}\n"
    ).compile("x", "two")
    x = faces["x"].compute()
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    found = faces["two"].compute()
    assert np.allclose(np.abs(found), np.abs(u[:, :2] * s[:2]), rtol=1e-6, atol=1e-6 * s[0])
    centred = (
        pipeline("  STOCKS\n  x: {to_array: [Open, High, Low, Close]}\n  two: {pca: 2}\n")
        .compile("two")["two"]
        .compute()
    )
    assert not np.allclose(np.abs(found), np.abs(centred), rtol=1e-2)


@pytest.mark.parametrize("expression", ["x - y", "x - mean(y, axis=0)"])
def test_inputs_that_change_places_are_another_array_in_the_store(
    pipeline: Make, project: Path, expression: str
) -> None:
    pl.DataFrame({"a": [1.0, 2.0, 4.0], "b": [10.0, 30.0, 50.0]}).write_parquet(project / "t.parquet")
    steps = "  t: {read: t.parquet}\n  NAME0: {from: t, to_array: [a]}\n  NAME1: {from: t, to_array: [b]}\n"
    steps += f"  d: {{from: [NAME0, NAME1], array: '{expression}', checkpoint: disk}}\n  m: {{reduce: {{values: {{m: mean}}}}}}\n"
    first = pipeline(steps.replace("NAME0", "x").replace("NAME1", "y"))
    second = pipeline(steps.replace("NAME0", "y").replace("NAME1", "x"))
    found = [metrics(made.run("serial"), "m")["m"] for made in (first, second)]
    assert found == pytest.approx([7 / 3 - 30, 30 - 7 / 3])


def test_an_expression_writes_to_no_array(pipeline: Make) -> None:
    """NumPy's `out` may be a positional argument: log(a, b) would write to b, which others read."""
    for wrong, said in {
        "log(paths, paths)": "log: too many positional arguments",
        "1 + maximum(paths, 1, paths)": "maximum: too many positional arguments",
        "sqrt(paths, out=paths)": "sqrt: got an unexpected keyword argument 'out'",
        "sum(paths, 0, None, paths)": "sum: too many positional arguments",
        "mean(paths, where=[True, False])": "mean: got an unexpected keyword argument 'where'",
        "exp(paths, dtype='float32')": "exp: got an unexpected keyword argument 'dtype'",
        "round(paths, 1, paths)": "round: too many positional arguments",
        "where(paths > 0)": "where: missing a required argument: 'x'",
        "clip(paths, *paths)": "cannot stand here",
    }.items():
        found = issue(pipeline, MANY + f'  bad: {{array: "{wrong}"}}\n')
        assert said in found
        assert f":11:{17 + wrong.index(said.split(':')[0]) if ':' in said else 29}:" in found
    chunk = np.arange(4.0).reshape(2, 2)
    work = Rowwise(Array(((2,), (2,)), "float64"), {}, "x", ("x",))
    assert not work(chunk).flags.writeable
    assert chunk.flags.writeable


@pytest.mark.parametrize(
    "expression", ["clip(x, 60, [70, 80])", "clip(x, min=60)", "round(x, 2)", "diff(x, 1, 0)", "sum(x, 0)", "std(x, axis=0, ddof=1)", "max(x, axis=1, keepdims=True)", "transpose(x, (1, 0))", "tensordot(x, x, 2)"]
)  # fmt: skip
def test_functions_take_what_numpys_take(pipeline: Make, expression: str) -> None:
    made = pipeline(MANY.replace("70000", "500") + f"  x: {{array: 'paths * 1'}}\n  y: {{array: '{expression}'}}\n")
    faces = made.compile("x", "y")
    x, y = dask.compute(faces["x"], faces["y"])
    names = {name: getattr(np, name) for name in expression.replace("(", " ").split() if hasattr(np, name)}
    assert np.allclose(y, eval(expression, {**names, "x": x}), rtol=1e-12)


def test_what_has_no_value_is_an_error_of_the_plan(pipeline: Make) -> None:
    for wrong, said in {
        "1 // 0 + paths": "'1 // 0' is no number: integer division or modulo by zero",
        "paths + 1/0": "'1 / 0' is no number: division by zero",
        "2.0 ** 10000 * paths": "'2.0 ** 10000' is no number: Numerical result out of range",
        "-(paths > 0)": "NumPy has no sign of truth values",
        "paths[paths > 0]": "'paths > 0' cannot stand here",
        "paths[True]": "True is no index",
        "sum(paths, axis=paths)": "'paths' cannot stand here",
    }.items():
        assert said in issue(pipeline, MANY + f'  bad: {{array: "{wrong}"}}\n')


TABLE = """  t: {read: {path: t.parquet, partitions: 4}}
  x: {from: t, to_array: [a, b]}
  few: {from: t, filter: id >= 0}
  u: {from: few, to_array: [a, b]}
  s: {simulate: {paths: 20000, assets: {a: {volatility: 0.2}, b: {volatility: 0.3}}, chunk: 1}}
"""


def table(project: Path) -> None:
    rng = np.random.default_rng(0)
    made = pl.DataFrame({"id": np.arange(600), "a": rng.normal(size=600), "b": rng.normal(size=600)})
    made.write_parquet(project / "t.parquet", row_group_size=100)


@pytest.mark.parametrize(
    "expression",
    [
        "concatenate([x, x])",
        "concatenate([x, x], axis=1)",
        "concatenate([s, x])",
        "concatenate([u, x])",
        "concatenate([u, u]) * 2",
        "concatenate([x, [[1, 2]]])",
        "stack([x, x])",
        "stack([u, u])",
        "[x, x]",
        "diff(x, prepend=0)",
        "argmax(x)",
        "argmin(x)",
        "argmax(x, axis=0)",
        "u.T",
        "transpose(u) + 1",
        "u @ x[:5].T",
    ],
)
def test_chunks_of_other_tasks_are_no_data_for_dask(pipeline: Make, project: Path, expression: str) -> None:
    table(project)
    given = [name for name in ("x", "u", "s") if name in expression.replace("axis", "").replace("max", "")]
    steps = TABLE + f"  e: {{from: [{', '.join(given)}], array: '{expression}'}}\n  more: {{array: e * 1}}\n"
    made = pipeline(steps + "  m: {reduce: {values: {m: mean, n: count}}}\n")
    faces = made.compile(*given, "e", "more")
    values = dask.compute(*(faces[name] for name in given), scheduler="sync")
    names = {name: getattr(np, name) for name in ("concatenate", "stack", "diff", "argmax", "argmin", "transpose")}
    wanted = np.asarray(eval(expression, {**names, **dict(zip(given, values, strict=True))}))
    for name in ("e", "more"):
        found = faces[name].compute(scheduler="threads")
        assert np.allclose(found, wanted, rtol=1e-12)
        assert found.shape == wanted.shape
    for executor in ("serial", "threads"):
        told = metrics(made.run(executor, to="m"), "m")
        assert told == {"m": pytest.approx(wanted.mean(), rel=1e-9), "n": wanted.size}


def test_arrays_that_dask_puts_together_on_a_cluster(pipeline: Make, project: Path) -> None:
    table(project)
    steps = TABLE + "  e: {from: [s, x], array: 'concatenate([s, x, [[0, 0]]])'}\n  t2: {from_array: [p, q]}\n"
    steps += "  f: {from: [x], array: 'argmax(x, axis=0)'}\n  n: {from: t2, aggregate: {n: count(*), m: max(p)}}\n"
    heads = [pipeline(steps).run(executor, to="n").outputs["n"].head.row(0) for executor in ("serial", "local")]
    assert heads[0] == heads[1]
    assert heads[0][0] == 20601


def test_lengths_that_do_not_fit_are_errors_of_the_plan(pipeline: Make, project: Path) -> None:
    table(project)
    for wrong, said in {
        "x[:, 0] @ [1]": "shapes (600,) and (1,) do not fit @",
        "x.T @ [1]": "shapes (2, 600) and (1,) do not fit @",
        "u.T @ [1]": "shapes (2, '?') and (1,) do not fit @".replace("'", ""),
        "u @ u.T": "more than one of its lengths only the data tells",
        "argmax(u, axis=0)": "unknown chunksizes",
    }.items():
        name = wrong.replace("argmax(", "")[0]
        assert said in issue(pipeline, TABLE + f"  e: {{from: [{name}], array: '{wrong}'}}\n")
    assert "only the data tells how many columns" in issue(pipeline, TABLE + "  e: {from: [u], array: u.T}\n  t2: {from_array: [p, q]}\n")  # fmt: skip


SPARSE = """  t: {read: {path: t.parquet, partitions: 6}}
  few: {filter: id >= 210 and id < 290 or id = 450}
  u: {to_array: [a, b]}
"""


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize(
    "expression",
    [
        "std(u)",
        "std(u, axis=0, ddof=1)",
        "var(u, axis=0, keepdims=True)",
        "var(u, axis=1)",
        "std(u > 0)",
        "max(u)",
        "min(u, axis=0)",
        "max(u > 0, axis=0, keepdims=True)",
        "cumsum(u, axis=0)",
        "cumprod(u, axis=0)",
        "mean(u, axis=0)",
        "u.T @ u",
        "prod(u)",
        "argmax(u)",
        "argmin(u, axis=0)",
    ],
)
def test_chunks_without_rows_change_nothing(pipeline: Make, project: Path, expression: str, files: bool) -> None:
    """Behind a filter; and of files without rows, of which the plan knows that."""
    table(project)
    steps = SPARSE
    if files:
        whole = pl.read_parquet(project / "t.parquet")
        for i, (at, n) in enumerate([(0, 0), (210, 80), (0, 0), (450, 1)]):
            whole.slice(at, n).write_parquet(project / f"f{i}.parquet")
        steps = "  t: {read: {path: 'f*.parquet', partitions: 4}}\n  u: {to_array: [a, b]}\n"
    elif expression.startswith("arg"):
        assert "unknown chunksizes" in issue(pipeline, steps + f"  e: {{array: '{expression}'}}\n")
        return
    made = pipeline(steps + f"  e: {{array: '{expression}'}}\n")
    faces = made.compile("u", "e")
    u = faces["u"].compute(scheduler="sync")
    assert len(u) == 81
    names = {name: getattr(np, name) for name in expression.replace("(", " ").split() if hasattr(np, name)}
    wanted = eval(expression, {**names, "u": u})
    found = faces["e"].compute(scheduler="threads")
    assert found.shape == wanted.shape
    assert found.dtype == faces["e"].dtype == wanted.dtype
    assert np.allclose(found, wanted, rtol=1e-12)
    assert made.run("serial").outputs["e"].head.height > 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of the mean of nothing
def test_arrays_without_any_row(pipeline: Make, project: Path) -> None:
    table(project)
    none = SPARSE.replace("id >= 210 and id < 290 or id = 450", "id < 0")
    for last in ("back: {from_array: [p, q]}", "two: {pca: 1}", "s: {standardize: {}}", "e: {array: u * 2}", "e: {array: 'u[:, 0:0]'}", "e: {array: 'sum(u, axis=0)'}"):  # fmt: skip
        rows = [
            pipeline(steps + f"  {last}\n").run("threads").outputs[last.split(":")[0]].rows for steps in (SPARSE, none)
        ]
        assert rows == ([2, 2] if "sum" in last else [81, 0])
    for wrong in ("max(u)", "min(u, axis=0)"):
        with pytest.raises(DataError, match=f"there is no {wrong[:3]} of no rows"):
            pipeline(none + f"  e: {{array: '{wrong}'}}\n").run("serial")
    found = pipeline(none + "  e: {array: 'std(u, axis=0)'}\n").compile("e")["e"].compute()
    assert np.isnan(found).all()
    assert "there is no max of no numbers" in issue(pipeline, MANY + "  e: {array: 'max(paths[0:0])'}\n")


def test_sparse_arrays_on_a_cluster(pipeline: Make, project: Path) -> None:
    table(project)
    steps = (
        SPARSE + "  e: {array: '(u - min(u, axis=0)) / std(u, axis=0)'}\n  m: {reduce: {values: {m: mean, s: std}}}\n"
    )
    found = [metrics(pipeline(steps).run(executor), "m") for executor in EXECUTORS]
    assert found == [found[0]] * len(EXECUTORS)


@pytest.mark.parametrize(
    "strange", [[math.inf], [-math.inf, -math.inf], [math.inf, -math.inf], [1e200, -1e200], [1.7e308] * 4]
)
def test_a_reduction_does_not_depend_on_the_partitions(pipeline: Make, project: Path, strange: list[float]) -> None:
    numbers = np.random.default_rng(0).normal(size=600)
    numbers[:: 600 // len(strange)] = strange
    pl.DataFrame({"x": numbers}).write_parquet(project / "t.parquet", row_group_size=100)
    steps = "  t: {read: {path: t.parquet, partitions: PARTS}}\n  x: {to_array: [x]}\n  r:\n    reduce:\n      values: {n: count, lo: min, hi: max, m: mean, t: sum, s: std, q: quantile(0.5), v: value_at_risk(0.99), e: expected_shortfall(0.99)}\n"
    made = [pipeline(steps.replace("PARTS", str(n))).compile("r")["r"] for n in (1, 2, 6)]
    found = [dict(each.compute(scheduler="sync").values) for each in made]  # files have no word for what is infinite
    for name in found[0]:
        same = pytest.approx([found[0][name]] * 2, rel=1e-12, abs=1e190 if 1e200 in strange else 1e-9, nan_ok=True)
        assert [each[name] for each in found[1:]] == same, name
    with np.errstate(all="ignore"):
        wanted = {"n": 600, "lo": numbers.min(), "hi": numbers.max(), "q": np.sort(numbers)[299]}
        if len(strange) < 4:  # NumPy's sum is infinite before it is divided
            wanted |= {"m": numbers.mean(), "t": numbers.sum()}
        if math.isinf(strange[0]):
            wanted["s"] = math.nan
    assert {name: found[0][name] for name in wanted} == pytest.approx(wanted, rel=1e-9, abs=1e180, nan_ok=True)


def test_nan_is_an_error_for_any_partitions(pipeline: Make, project: Path) -> None:
    numbers = [1.0, math.inf, math.nan, 2.0, -math.inf, 3.0]
    pl.DataFrame({"x": numbers}).write_parquet(project / "t.parquet", row_group_size=1)
    for parts in (1, 3, 6):
        read = f"  t: {{read: {{path: t.parquet, partitions: {parts}}}}}\n  x: {{to_array: [x]}}\n"
        with pytest.raises(DataError, match="NaN is among the numbers"):
            pipeline(read + "  r: {reduce: {values: {m: max}}}\n").run("serial")


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        ("np.full((paths, 2), 'abc')", "simulate got an array of <U3"),
        ("[['1.5', '2']] * paths", "simulate got an array of <U3"),
        ("[[1, 2]] * (paths - 1) + [[3]]", "simulate got a value of type list that is no array of numbers"),
        ("[[1, 'a']] * paths", "simulate got an array of <U"),
        ("np.full((paths, 2), object())", "simulate got a value of type ndarray that is no array of numbers"),
        ("np.ones((paths, 2)) * 1j", "simulate got an array of complex128"),
        ("np.zeros((paths, 2), 'datetime64[s]')", "simulate got an array of datetime64"),
        ("None", "simulate got an array of shape ()"),
    ],
)
def test_a_function_that_makes_no_numbers_is_told_so(project: Path, returns: str, said: str) -> None:
    (project / "texts.py").write_text(f"import numpy as np\n\ndef make(rng, paths):\n    return {returns}\n")
    config = project / "c.yaml"
    config.write_text("steps:\n  x: {simulate: {function: 'texts:make', shape: [2], paths: 10}}\n")
    sys.modules.pop("texts", None)
    with pytest.raises(DataError, match=re.escape(said)):
        load(config).run("serial")


def test_arrays_of_other_rows_are_not_repeated(pipeline: Make, project: Path) -> None:
    """A chunk of one row is no row for each of the other's."""
    table(project)
    steps = TABLE.replace("  s:", "  less: {from: t, filter: id < 451}\n  w: {to_array: [a, b]}\n  s:")
    for expression in ("u - w", "w[:, 0] > u[:, 0]", "maximum(u, w)", "where(u > 0, w, [1, 2])"):
        made = pipeline(steps + f"  e: {{from: [u, w], array: '{expression}'}}\n")
        with pytest.raises(DataError, match=r"two arrays have \d+ and \d+ rows in the same chunk"):
            made.run("serial", to="e")
    pl.read_parquet(project / "t.parquet").reverse().write_parquet(project / "more.parquet", row_group_size=100)
    for partitions, said in ((1, "rows in the same chunk"), (2, "this does not fit")):
        other = f"  r: {{read: {{path: more.parquet, partitions: {partitions}}}}}\n  f: {{filter: id > -1}}\n  z: {{to_array: [a, b]}}\n"
        with pytest.raises(DataError, match=said):
            pipeline(steps + other + "  e: {from: [u, z], array: u - z}\n").run("serial", to="e")
    expression = "where(u > mean(w, axis=0), maximum(u, -u), u[:, :1]) + u ** 2"
    faces = pipeline(steps + f"  e: {{from: [u, w], array: '{expression}'}}\n").compile("u", "w", "e")
    u, w, e = dask.compute(*faces.values(), scheduler="sync")
    assert np.allclose(e, np.where(u > w.mean(axis=0), np.maximum(u, -u), u[:, :1]) + u**2, rtol=1e-12)


@pytest.mark.parametrize("executor", ["serial", "threads", "local"])
def test_what_numpy_refuses_in_a_chunk_of_dask_is_an_error_with_a_place(
    pipeline: Make, project: Path, executor: str
) -> None:
    table(project)
    steps = TABLE.replace("  s:", "  less: {from: t, filter: id < 451}\n  w: {to_array: [a, b]}\n  s:")
    made = pipeline(steps + "  e: {from: [u, w], array: transpose(u) @ w}\n")
    with pytest.raises(DataError, match=r"NumPy cannot do this: .*size") as told:
        made.run(executor, to="e")
    assert [issue.place.line for issue in told.value.issues if issue.place] == [steps.count("\n") + 4]


def test_options_of_the_other_way_to_simulate_are_issues(pipeline: Make, project: Path) -> None:
    (project / "other.py").write_text("def make(rng, paths):\n    return rng.normal(size=paths)\n")
    for option in ("shape: [3]", "arguments: {x: 3}"):
        said = issue(pipeline, f"  x: {{simulate: {{paths: 9, assets: {{a: {{volatility: 1}}}}, {option}}}}}\n")
        assert f":4:58: `{option.split(':')[0]}` has no meaning beside `assets`" in said
    for option in ("correlation: [[1]]", "steps: 1", "keep: all", "years: 2"):
        said = issue(pipeline, f"  x: {{simulate: {{paths: 9, function: 'other:make', {option}}}}}\n")
        assert f":4:52: `{option.split(':')[0]}` has no meaning beside `function`" in said


def test_what_is_wrong_in_an_asset_is_told_at_its_option(pipeline: Make) -> None:
    for asset, said in {
        "{}": ":4:40: the option 'assets.a.volatility' is missing",
        "{drft: 1, volatility: 1}": ":4:41: unknown option 'assets.a.drft'\n    did you mean 'drift'?",
        "{zz: 1, volatility: 1}": "known: start, drift, volatility",
        "{volatility: .inf}": ":4:53: `assets.a.volatility` must be a finite number, not .inf",
        "{volatility: 1, start: .inf}": "`assets.a.start` must be a finite number, not .inf",
        "{volatility: 1, drift: .nan}": "`assets.a.drift` must be a finite number, not .nan",
        "1": "`assets.a` must be a mapping, not 1",
        "{volatility: 1}}, years: .inf, correlation: [[1]]": "`years` must be a finite number, not .inf",
        "{volatility: 1}}, correlation: [[.inf]]": "an item of `correlation` must be a finite number",
    }.items():
        end = "}" if "}}," in asset else "}}"
        assert said in issue(pipeline, f"  x: {{simulate: {{paths: 9, assets: {{a: {asset}{end}}}\n")


def test_an_asset_may_move_just_as_others_do(pipeline: Make) -> None:
    """A singular correlation is one: Cholesky's root of it has columns of zeros."""
    made = pipeline(MANY.replace("70000", "5000").replace("0.6", "-1")).compile("paths")["paths"].compute()
    a, b = np.log(made / [100, 50]).T
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(-1)
    loadings = np.random.default_rng(0).normal(size=(8, 3))
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    for matrix in (loadings @ loadings.T, np.ones((20, 20)), np.array([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])):
        root = np.array(_root(matrix))
        assert np.allclose(root @ root.T, matrix, rtol=0, atol=1e-9)
        assert not np.triu(root, 1).any()
    sound = np.array([[1, 0.6], [0.6, 1]])
    assert np.array_equal(np.array(_root(sound)), np.linalg.cholesky(sound))
    for wrong in ([[1, 1, 0.5], [1, 1, 0.4], [0.5, 0.4, 1]], [[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]]):
        assert _root(np.array(wrong)) is None


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e8 + 0.1, -5e-324])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_constant_column_is_standardized_to_0(pipeline: Make, project: Path, number: float, dtype: str) -> None:
    """The mean of many times 0.1 is not 0.1 in floating point."""
    near = np.where(np.arange(3000) % 3 == 0, 1e8, np.nextafter(1e8, 2e8))
    table = pl.DataFrame({"x": np.full(3000, number), "near": near, "n": [None, *[number] * 2999]})
    table.write_parquet(project / "t.parquet", row_group_size=100)
    read = f"  t: {{read: {{path: t.parquet, partitions: 7}}}}\n  x: {{to_array: {{dtype: {dtype}}}}}\n"
    face = pipeline(read + "  s: {standardize: {}}\n").compile("s")["s"]
    found = face.compute(scheduler="sync")
    assert found.dtype == face.dtype == dtype
    assert not found[:, 0].any()
    assert not found[1:, 2].any()
    assert np.isnan(found[0, 2])
    if dtype == "float64":  # two numbers side by side are two numbers
        assert found[:3, 1] == pytest.approx([-math.sqrt(2), math.sqrt(0.5), math.sqrt(0.5)])


def test_whole_numbers_and_truth_values_are_standardized_to_fractions(pipeline: Make) -> None:
    steps = MANY.replace("70000", "900") + "  b: {array: paths > 60}\n  s: {standardize: {}}\n"
    faces = pipeline(steps).compile("b", "s")
    b, s = dask.compute(*faces.values(), scheduler="sync")
    assert faces["s"].dtype == s.dtype == np.float64
    assert np.allclose(s, (b - b.mean(axis=0)) / b.std(axis=0))


def test_only_real_numbers_go_on(pipeline: Make) -> None:
    for wrong, column in {"paths * (-1) ** 0.5": 25, "1 + ~paths": 21, "(-1) ** 0.5": 17, "[2 ** 70] * paths": 17, "where(~paths, 1, 2)": 23, "paths & 1": 17}.items():  # fmt: skip
        assert f":11:{column}: this does not fit: " in issue(pipeline, MANY + f"  bad: {{array: '{wrong}'}}\n")
    assert "it makes complex128, not real numbers" in issue(pipeline, MANY + "  bad: {array: 'paths * (-1) ** 0.5'}\n")


@pytest.mark.parametrize("partitions", [1, 7])
def test_the_rank_of_a_quantile_is_that_of_the_level_as_written(pipeline: Make, project: Path, partitions: int) -> None:
    """In floating point 100 * 0.07 is 7.000000000000001."""
    pl.DataFrame({"x": np.arange(1.0, 101)}).write_parquet(project / "t.parquet", row_group_size=10)
    read = f"  t: {{read: {{path: t.parquet, partitions: {partitions}}}}}\n  x: {{to_array: [x]}}\n"
    levels = [f"{i / 100:.2f}" for i in range(1, 100)]
    for function in ("quantile", "value_at_risk"):
        values = ", ".join(f"q{level[2:]}: {function}({level})" for level in levels)
        found = metrics(pipeline(read + f"  r: {{reduce: {{values: {{{values}}}}}}}\n").run("serial"), "r")
        assert list(found.values()) == list(range(1, 100))
    found = metrics(pipeline(read + "  r: {reduce: {values: {e: expected_shortfall(0.56), f: quantile(7e-2)}}}\n").run("serial"), "r")  # fmt: skip
    assert found == {"e": np.arange(57, 101).mean(), "f": 7}
    assert "a level between 0 and 1" in issue(pipeline, read + "  r: {reduce: {values: {m: quantile(1e-999999999)}}}\n")


def test_sums_of_all_numbers_so_far_have_as_many_chunks(pipeline: Make) -> None:
    """Dask's own, without an axis, makes chunks of as many numbers as there are chunks."""
    steps = MANY.replace("      seed", "      chunk: 1\n      seed")
    for name, function in (("cumsum", np.cumsum), ("cumprod", np.cumprod)):
        faces = pipeline(steps + f"  e: {{array: '{name}(paths / 80)'}}\n").compile("paths", "e")
        assert faces["e"].numblocks == (5,)
        paths, found = dask.compute(*faces.values(), scheduler="sync")
        assert np.allclose(found, function(paths / 80), rtol=1e-9)


def test_a_column_twice_makes_no_array(pipeline: Make) -> None:
    said = issue(pipeline, "  STOCKS\n  x: {to_array: [Open, Low, Open]}\n")
    assert re.search(r":\d+:29: 'Open' stands here twice", said)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("cumsum(x, axis=(0, 1))", "cumsum: 'axis' is (0, 1)\n    it must be a whole number"),
        ("round(x, 1.5)", "round: 'decimals' is 1.5"),
        ("round(x > 0, 1)", "truth values cannot be rounded"),
        ("std(x, ddof='a')", "std: 'ddof' is 'a'"),
        ("std(x, 0, ddof=True)", "std: 'ddof' is True"),
        ("sum(x, axis=[0])", "sum: 'axis' is [0]\n    it must be a whole number, or several in round brackets"),
        ("sum(x, axis=(0, -2))", "repeated axis"),
        ("sum(x, keepdims=1)", "sum: 'keepdims' is 1\n    it must be True or False"),
        ("clip(x, min='a')", "clip: 'min' is 'a'\n    it must be a number, or a list of them"),
        ("clip(x, 0, 1, max=2)", "the ends are given twice"),
        ("argmax(x[:0])", "there is no argmax of no numbers"),
        ("argmin(x[:0], axis=0)", "there is no argmin of no numbers"),
        ("tensordot(x[:, :1], x, axes=1)", "lengths (1,) and (600,) do not fit tensordot"),
        ("tensordot(x, x, axes=((0, 1), (0,)))", "do not fit tensordot"),
        ("cumsum(u)", "only the data tells how many numbers these are: give an axis"),
        ("[x, x[:, 0]]", "must have the same shape"),
        ("x[{[]}]", "cannot stand here"),
    ],
)
def test_what_only_dask_takes_is_an_error_of_the_plan(pipeline: Make, project: Path, wrong: str, said: str) -> None:
    table(project)
    assert said in issue(pipeline, TABLE + f'  e: {{from: [x, u], array: "{wrong}"}}\n')


def test_products_of_truth_values_are_truth_values(pipeline: Make, project: Path) -> None:
    table(project)
    for expression in ("tensordot(x > 0, x > 0, axes=((0,), (0,)))", "(x > 0).T @ (x > 0)", "tensordot(x > 2, x > 2)"):
        faces = pipeline(TABLE + f"  e: {{from: x, array: '{expression}'}}\n").compile("x", "e")
        x, found = dask.compute(*faces.values(), scheduler="sync")
        wanted = eval(expression, {"x": x, "tensordot": np.tensordot})
        assert found.dtype == faces["e"].dtype == wanted.dtype == bool
        assert np.array_equal(found, wanted)


def test_clip_knows_both_names_of_its_ends_in_chunks_too(pipeline: Make, project: Path) -> None:
    table(project)
    for options in ("min=0", "min=[0, 0.5], max=1", "max=1", "0, 1", "a_min=[0, 0.5], a_max=1"):
        faces = pipeline(TABLE + f"  e: {{from: [x, u], array: 'clip(x, {options})'}}\n").compile("x", "e")
        x, found = dask.compute(*faces.values(), scheduler="sync")
        assert np.array_equal(found, eval(f"np.clip(x, {options})", {"np": np, "x": x}))


def test_what_numpy_refuses_of_the_numbers_is_an_error_of_the_data() -> None:
    work = Rowwise(Array(((2,),), "int64"), {}, "2 ** x", ("x",))
    with pytest.raises(DataError, match="Integers to negative integer powers are not allowed"):
        work(np.array([1, -1]))


def test_an_expression_may_be_of_several_lines(pipeline: Make) -> None:
    """Indented and commented like any; places are those in the file."""
    lines = "  e:\n    array: |\n      paths[:, 0]  # größe\n        * 2\n      {}\n"
    faces = pipeline(MANY.replace("70000", "9") + lines.format("+ 1")).compile("paths", "e")
    assert np.array_equal(faces["e"].compute(), faces["paths"].compute()[:, 0] * 2 + 1)
    for last, said in {
        "+ ä + pahts": ":15:9: unknown array 'ä'",
        "+ pahts": ":15:9: unknown array 'pahts'",
        "+ log(1, 2)": ":15:9: log: too many positional arguments",
        "paths": ":15:7: this is no expression: invalid syntax",
        ") + (paths": ":15:7: this is no expression: unmatched ')'",
    }.items():
        assert said in issue(pipeline, MANY + lines.format(last))
