"""Random tables and random pipelines over them, as YAML: steps that rows travel for, one behind the other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from pipelines import ConfigError, load
from pipelines.pipeline import Pipeline
from pipelines.types import Schema

COLUMNS: dict[str, tuple[tuple[pl.DataType, ...], list[Any]]] = {
    "k": ((pl.Int64(), pl.Int32(), pl.Int8(), pl.Float64()), [0, 1, 2, 3]),
    "f": ((pl.Float64(), pl.Float32()), [0.0, -0.0, math.nan, math.inf, -math.inf, 2.5, 0.1, 1e30]),
    "s": ((pl.String(),), ["", "a", "ü", "€,b", "😀"]),
    "d": ((pl.Date(), pl.Datetime("us")), [date(1969, 1, 1), date(2020, 2, 29), date(2020, 3, 1)]),
    "i": ((pl.Int64(), pl.Int16()), [-3, 0, 7, 99]),
    "b": ((pl.Boolean(),), [True, False]),
    "row": ((pl.Int64(),), []),
}


def table(r: Random) -> pl.DataFrame:
    """Keys of few values, or one giant key; NULL, NaN and -0.0; perhaps no rows."""
    n = r.choice([0, 1, 3, 12, 12, 40])
    columns = list[pl.Series]()
    for name, (types, values) in COLUMNS.items():
        if name not in {"k", "row"} and r.random() < 0.2:
            continue
        few = r.random() < 0.2
        given = range(n) if not values else [None if r.random() < 0.15 else values[0] if few and r.random() < 0.9 else r.choice(values) for _ in range(n)]  # fmt: skip
        dtype = r.choice(types)
        first = pl.Date() if name == "d" else dtype
        columns.append(pl.Series(name, list(given), first).cast(dtype))
    r.shuffle(columns)
    return pl.DataFrame(columns)


def some(r: Random, names: list[str], least: int, most: int) -> list[str]:
    return r.sample(names, min(len(names), r.randint(least, most)))


def flat(schema: Schema) -> list[str]:
    return [name for name, dtype in schema.items() if not dtype.is_nested()]


def ordering(r: Random, schema: Schema, option: str) -> dict[str, Any]:
    by = some(r, flat(schema), 1, 3)
    return {option: by, "descending": [name for name in by if r.random() < 0.4]}


def condition(r: Random, schema: Schema) -> str:
    name = r.choice(flat(schema))
    dtype, column = schema[name], f'"{name}"'
    choices = [f"{column} IS NOT NULL", f"{column} IS NULL"]
    if dtype.is_numeric():
        choices += [f"{column} {r.choice(['>', '<=', '=', '<>'])} {r.choice([0, 1, 2])}"] * 4
        choices += [f"abs({column}) >= 1", f"coalesce({column}, 1) > 0"]
    if dtype == pl.String():
        choices += [f"{column} >= 'a'", f"{column} <> ''", f"{column} IN ('a', 'ü')"]
    if dtype.is_temporal():
        choices += [f"{column} < DATE '2020-03-01'"]
    return r.choice(choices)


def conditions(r: Random, schema: Schema) -> str:
    return f" {r.choice(['AND', 'AND', 'AND', 'OR'])} ".join(condition(r, schema) for _ in range(r.randint(1, 3)))


def aggregated(r: Random, schema: Schema) -> dict[str, Any]:
    by = some(r, flat(schema), 0, 2)
    outputs = dict[str, str]()
    names = flat(schema)
    for i in range(r.randint(1, 3)):
        name = r.choice(names)
        choices = ["count(*)", "count({})", "count(DISTINCT {})", "first({})", "last({})", "min({})", "max({})"]
        if not schema[name].is_float():
            choices += ["mode({})"]
        if schema[name].is_numeric():
            choices += ["sum({})", "avg({})", "median({})", "quantile({}, 0.3)", "sum(DISTINCT {})"]
        call = r.choice(choices).format(f'"{name}"')
        if r.random() < 0.2 and "DISTINCT" not in call:
            call += f" FILTER (WHERE {condition(r, schema)})"
        outputs[f"{r.choice('knxs')}{i}"] = call
    return {"by": by, **outputs}


def windowed(r: Random, schema: Schema) -> dict[str, Any]:
    options: dict[str, Any] = {"partition_by": some(r, flat(schema), 0, 2)}
    if r.random() < 0.8:
        options |= ordering(r, schema, "order_by")
    names = flat(schema)
    for i in range(r.randint(1, 3)):
        name = r.choice(names)
        choices = ["row_number()", "rank()", "dense_rank()", "ntile(2)", "lag({})", "lead({}, 2)", "first_value({})"]
        choices += ["count({}) OVER (ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)", "max({}) OVER (ROWS 2 PRECEDING)"]
        if schema[name].is_numeric():
            choices += ["sum({})", "avg({}) OVER (ROWS 1 PRECEDING)"]
        options[f"w{i}" if r.random() < 0.8 or name in options["partition_by"] else name] = r.choice(choices).format(f'"{name}"')  # fmt: skip
    return options


def joined(r: Random, left: Schema, right: Schema) -> dict[str, Any]:
    on = dict[str, str]()
    others = flat(right)
    for name in some(r, flat(left), 1, 2):
        same = [other for other in others if (left[name].is_numeric() and right[other].is_numeric()) or left[name] == right[other]]  # fmt: skip
        if same:
            on[name] = name if name in same and r.random() < 0.6 else r.choice(same)
            others.remove(on[name])
    options: dict[str, Any] = {"on": on, "how": r.choice(["inner", "left", "right", "full", "semi", "anti"])}
    if r.random() < 0.4:
        options["suffix"] = r.choice(["2", "_r", "~"])
    if r.random() < 0.3:
        options["broadcast"] = r.choice([True, False])
    if r.random() < 0.2:
        options["validate"] = r.choice(["one_to_one", "one_to_many", "many_to_one"])
    return options


def nearest(r: Random, left: Schema, right: Schema) -> dict[str, Any] | None:
    def fit(name: str, other: str) -> bool:
        dtypes = left[name], right[other]
        return dtypes[0] == dtypes[1] and (dtypes[0].is_integer() or isinstance(dtypes[0], pl.Date | pl.Datetime))

    pairs = [(name, other) for name in left for other in right if fit(name, other)]
    if not pairs:
        return None
    name, other = r.choice(pairs)
    options: dict[str, Any] = {"on": {name: other}, "direction": r.choice(["backward", "forward", "nearest"])}
    keys = [key for key in flat(left) if key not in (name, other) and right.get(key) == left[key]]
    if by := some(r, keys, 0, 1):
        options |= {"by": by, "broadcast": r.choice([None, False])}
    if r.random() < 0.3:
        options["tolerance"] = 2 if left[name].is_integer() else "2 days"
    return options


def filled(r: Random, schema: Schema) -> dict[str, Any]:
    keys = some(r, flat(schema), 0, 1)
    names = [name for name in schema if name not in keys]
    options: dict[str, Any] = {"partition_by": keys, "forward": some(r, names, 0, 2), "backward": some(r, names, 0, 1)}
    if r.random() < 0.5:
        options |= ordering(r, schema, "order_by")
    if r.random() < 0.3:
        options["limit"] = 1
    if numbers := [name for name in names if schema[name].is_numeric()]:
        options["value"] = {r.choice(numbers): 1}
    return options


def renamed(r: Random, schema: Schema) -> dict[str, Any]:
    names = list(schema)
    kept = r.sample(names, r.randint(max(1, len(names) - 3), len(names)))
    rename = {name: r.choice(["k", "q", "row", "s2", f"{name}_right"]) for name in some(r, kept, 0, 2)}
    if r.random() < 0.3 and len(kept) >= 2:  # two change names
        one, two = r.sample(kept, 2)
        rename = {one: two, two: one}
    return {"columns": kept, "rename": rename}


def derived(r: Random, schema: Schema) -> dict[str, Any]:
    name = r.choice(flat(schema))
    numbers = [n for n in schema if schema[n].is_numeric()]
    value = f'"{r.choice(numbers)}" * 2 + 1' if numbers and r.random() < 0.7 else f'"{r.choice(list(schema))}"'
    return {r.choice([name, "z"]): value}


def sampled(r: Random, schema: Schema) -> dict[str, Any]:
    how = {"fraction": 0.6} if r.random() < 0.5 else {"rows": r.choice([1, 5])}
    return {**how, "seed": r.randint(0, 3), "by": some(r, flat(schema), 1, 2)}


def exploded(r: Random, schema: Schema) -> dict[str, Any]:
    texts = [name for name in schema if schema[name] == pl.String()]
    return {"columns": r.choice(texts or list(schema)), "split": ",", "empty": r.choice(["keep", "drop"])}


def unpivoted(r: Random, schema: Schema) -> dict[str, Any]:
    dtype = schema[r.choice(list(schema))]
    alike = [name for name in schema if schema[name] == dtype]
    return {"on": some(r, alike, 1, 3), "values": r.choice(["value", *schema])}


def pivoted(r: Random, schema: Schema) -> dict[str, Any]:
    of = {pl.String(): ["a", "ü", "€,b"], pl.Boolean(): [True, False], pl.Date(): ["2020-02-29", "1969-01-01"]}
    names = [name for name in schema if schema[name] in of or schema[name].is_numeric()]
    name = r.choice(names or list(schema))
    made = aggregated(r, schema)
    by = made.pop("by")
    one = next(iter(made.values()))
    listed = r.sample(of.get(schema[name], [0, 2, -3]), r.randint(1, 2))
    return {"by": by, "names": name, "columns": listed, "values": made if r.random() < 0.5 else one}


KINDS: dict[str, Callable[[Random, Schema], Any]] = {
    "filter": conditions,
    "aggregate": aggregated,
    "window": windowed,
    "fill": filled,
    "select": renamed,
    "derive": derived,
    "sample": sampled,
    "explode": exploded,
    "pivot": pivoted,
    "unpivot": unpivoted,
    "sort": lambda r, t: ordering(r, t, "by") | ({"limit": r.choice([1, 3, 20])} if r.random() < 0.5 else {}),
    "top": lambda r, t: {"n": r.choice([1, 2]), "by": some(r, flat(t), 0, 2), **ordering(r, t, "order_by")},
    "dedupe": lambda r, t: {"by": some(r, flat(t), 1, 2), "keep": r.choice(["first", "last"]), **(ordering(r, t, "order_by") if r.random() < 0.5 else {})},
    "distinct": lambda r, t: some(r, flat(t), 1, 3) or None,
}  # fmt: skip


def step(r: Random, schemas: dict[str, Schema]) -> dict[str, Any]:
    """A step on one or two of those that are there: rather on the last ones."""
    names = list(schemas)
    on = r.choice(names[-1:] * 4 + names)
    other = r.choice(names)
    draw = r.random()
    if draw < 0.3:
        pair = [on, other] if r.random() < 0.6 else [other, on]
        return {"from": pair, "join": joined(r, schemas[pair[0]], schemas[pair[1]])}
    if draw < 0.36 and (options := nearest(r, schemas[on], schemas[other])):
        return {"from": [on, other], "join_asof": options}
    if draw < 0.43:
        return {"from": [on, other], "union": {"missing": None}}
    kind = r.choice(list(KINDS))
    return {"from": on, kind: KINDS[kind](r, schemas[on]), **({"checkpoint": "memory"} if r.random() < 0.1 else {})}


def pipeline(r: Random, project: Path, most: int = 5) -> Pipeline:
    """Tables `a` and `b` and up to `most` steps, of which only those stay that the check accepts."""
    steps: dict[str, Any] = {}
    for name in "ab":
        table(r).write_parquet(project / f"{name}.parquet", row_group_size=r.choice([3, 100]))
        steps[name] = {"read": {"path": f"{name}.parquet", "partitions": r.choice([1, 2, 4, 7])}}
    path = project / "c.yaml"

    def made() -> Pipeline:
        path.write_text(json.dumps({"steps": steps}, ensure_ascii=False))
        return load(path)

    found = made()
    schemas: dict[str, Schema] = {node.name: node.schema for node in found.plan().nodes.values()}
    wanted, tries = r.randint(2, most), 0
    while len(steps) < wanted + 2 and tries < 4 * most:
        name, tries = f"t{len(steps) - 1}", tries + 1
        steps[name] = step(r, schemas)
        try:
            found = made()
            schemas[name] = found.plan().nodes[name].schema
        except ConfigError:
            del steps[name]
    return made()
