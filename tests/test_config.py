"""Every mistake in a config: one clear error at its place, and never a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipelines import Issue, PipelineError, load
from pipelines.cli import main
from tests.conftest import ROOT

READ = f'steps:\n  t:\n    read: {{path: "{ROOT}/data/stocks/TSLA.csv"}}\n'

# (config, line:column and a part of the message, ...)
BAD: list[tuple[str, ...]] = [
    ("", "1:1 the file is empty"),
    ("- 1\n", "1:1 a pipeline is a mapping"),
    ("name: x\n", "1:1 there are no steps"),
    ("steps: {}\n", "1:8 `steps` is a mapping"),
    ("store: file://rel/st\n" + READ, "1:8 `url` must be file:/// and an absolute path"),
    ("store: {url: FILE:///st}\n" + READ, "1:14 `url` must be a folder, or a URL of a known protocol (did you mean 'file'?)"),
    ("store: memory://st\n" + READ, "1:8 `url` must be a folder, or a URL of what other processes see too"),
    ("store: gopher://x/y\n" + READ, "1:8 `url` must be a folder, or a URL of a known protocol"),
    ("stepz: {}\n" + READ, "1:1 unknown key 'stepz'"),
    ("name: a b\n" + READ, "1:7 the name 'a b' is not plain"),
    ("name: 5\n" + READ, "1:7 `name` must be a text"),
    ("steps:\n  a: [\n", "3:1 this is not YAML"),
    ("steps:\n\ta: 1\n", "2:1 this is not YAML"),
    ("name: a: b\n", "1:8 this is not YAML"),
    (READ + "  u:\n    filter: Close > 0\n    filter: Close > 1\n", "6:5 the key 'filter' stands here twice"),
    (READ + "  t:\n    filter: Close > 0\n", "4:3 the key 't' stands here twice"),
    (READ + "  u:\n    filtre: Close > 0\n", "5:5 unknown key 'filtre'"),
    (READ + "  u:\n    from: t\n", "4:3 the step 'u' has no kind"),
    (READ + "  u: 3\n", "4:6 the step 'u' says nothing to do"),
    (READ + "  u:\n    filter: Close > 0\n    sort: [Close]\n", "6:5 the step 'u' has two kinds"),
    (READ + "  1u:\n    filter: Close > 0\n", "4:3 '1u' cannot name a step"),
    (READ + "  u:\n    filter: Clsoe > 0\n", "5:13 unknown column 'Clsoe'"),
    (READ + "  u:\n    filter: Open > 0 AND Clsoe > 0\n", "5:26 unknown column 'Clsoe'"),
    (READ + "  u:\n    filter: 'Open > 0 AND Clsoe > 0'\n", "5:27 unknown column 'Clsoe'"),
    (READ + "  u:\n    filter: |\n      Open > 0\n      AND Clsoe > 0\n", "7:11 unknown column 'Clsoe'"),
    (READ + "  u:\n    filter: close > 0\n", "5:13 unknown column 'close'"),
    (READ + "  u:\n    filter: Adj Close > 0\n", "5:23 cannot parse"),
    (READ + "  u:\n    filter: Close >\n", "5: cannot parse"),
    (READ + "  u:\n    filter: Close + 1\n", "5:13 a condition must be boolean"),
    (READ + "  u:\n    filter: Symbol > 1\n", "5:13 "),
    (READ + "  u:\n    filter: avg(Close) > 1\n", "5:13 avg(...) is an aggregate"),
    (READ + "  u:\n    filter: sum(Close) over (partition by Symbol) > 1\n", "5:13 an expression works on one row"),
    (READ + "  u:\n    filter: uper(Symbol) = 'A'\n", "5:13 unknown function 'uper'"),
    (READ + "  u:\n    filter: [1]\n", "5:13 `where`"),
    (READ + "  u:\n    filter: Date > '2020-13-01'\n", "5:20 "),
    (READ + "  u:\n    derive: {a: Clse}\n", "5:17 unknown column 'Clse'"),
    (READ + "  u:\n    derive: {}\n", "5:13 derive names no column"),
    (READ + "  u:\n    select: [Date, Opne]\n", "5:20 unknown column 'Opne'"),
    (READ + "  u:\n    select: {rename: {Opne: o}}\n", "5:23 unknown column 'Opne'"),
    (READ + "  u:\n    select: {cast: {Open: flot64}}\n", "5:27 unknown type 'flot64'"),
    (READ + "  u:\n    select: {column: [Date]}\n", "5:14 unknown option 'column'"),
    (READ + "  u:\n    select: {rename: {Open: Close}}\n", "5: two columns would be named 'Close'"),
    (READ + "  u:\n    sort: [Opne]\n", "5:12 unknown column 'Opne'"),
    (READ + "  u:\n    sort: {by: Open, limit: 0}\n", "5:29 `limit`"),
    (READ + "  u:\n    sort: {limit: 3}\n", "5:11 the option 'by' is missing"),
    (READ + "  u:\n    sort: {by: Open, descending: [Close]}\n", "5:35 'Close' is not under `by`"),
    (READ + "  u:\n    aggregate: {by: [Smbol], n: count(*)}\n", "5:22 unknown column 'Smbol'"),
    (READ + "  u:\n    aggregate: {by: [Symbol], n: sum(Date)}\n", "5:34 sum does not take date"),
    (READ + "  u:\n    aggregate: {by: [Symbol], n: Close}\n", "5:34 column 'Close' has many values"),
    (READ + "  u:\n    aggregate: {by: [Symbol], n: avg(sum(Close))}\n", "5:38 sum(...) is inside"),
    (READ + "  u:\n    aggregate: {by: [Symbol], Symbol: count(*)}\n", "5:31 'Symbol' is a key already"),
    (READ + "  u:\n    aggregate: {}\n", "5:16 aggregate names nothing"),
    (READ + "  u:\n    filter: Close > ${mn}\n", "5:21 unknown parameter 'mn'"),
    (READ + "  u:\n    filter: Close > ${env:NOT_SET_ANYWHERE}\n", "5:21 the environment variable"),
    (READ + "  u:\n    from: tt\n    filter: Close > 0\n", "5:11 unknown step 'tt'"),
    (READ + "  u:\n    from: v\n    filter: Close > 0\n  v:\n    filter: Close > 0\n", "5:11 the step 'v' stands below"),
    (READ + "  u:\n    checkpoint: disc\n    filter: Close > 0\n", "5:17 `checkpoint` is 'disc'"),
    ("steps:\n  u:\n    filter: Close > 0\n", "2:3 the step 'u' has no input"),
    (READ + "  u:\n    write: out.xlsx\n", "5:12 the ending of 'out.xlsx'"),
    (READ + "  u:\n    write: {path: '${run}.csv'}\n", "5: ${run} stands at the start"),
    (READ + "  u:\n    write: '${run}/a.csv'\n  v:\n    from: u\n    filter: Close > 0\n", "7:11 the step 'u' writes"),
    (READ + "  u:\n    write: '${run}/a.csv'\n  v:\n    from: t\n    write: {path: '${run}/a.csv'}\n", "8:19 the step 'u' writes to the same path"),
    (READ + "  u:\n    write: '${run}/b/../a.csv'\n  v:\n    from: t\n    write: {path: '${run}/a.csv'}\n", "8:19 the step 'u' writes to the same path"),
    (READ + "  u:\n    write: {path: out, format: csv, per_partition: true}\n  v:\n    from: t\n    write: {path: out/a.csv}\n", "8:19 the step 'u' writes to the same path"),
    ("steps:\n  t:\n    read: nothing/*.csv\n", "3:11 no file matches"),
    ("steps:\n  t:\n    read: {paht: a.csv}\n", "3:12 unknown option 'paht'", "3:11 the option 'path' is missing"),
    ("steps:\n  t:\n    read: 5\n", "3:11 `path`"),
    ("steps:\n  t:\n    from: u\n    read: a.csv\n", "3:11 `read` is a source"),
    (READ.replace('"}', '", dtypes: {Opne: float64}}'), "3: "),
    (READ.replace('"}', '", dtypes: {Open: flot}}'), "3: unknown type 'flot'"),
    (READ.replace('"}', '", header: no}}'[:-1]), "3: `no` is not plain here"),
    (READ.replace('"}', '", partitions: 1_000}'), "3: `1_000` is not plain here"),
    (READ.replace('"}', '", partitions: 010}'), "3: `010` is not plain here"),
    ("a: &x 1\nsteps: *x\n", "2:8 an alias"),
    ("name: !!python/none x\n" + READ, "1:7 the tag"),
    ("executor: lokal\n" + READ, "1:11 `kind`"),
    ("executor: {kind: local, workers: 0}\n" + READ, "1:34 `workers`"),
    ("executor: {kind: local, memory: 2GB}\n" + READ, "1:25 unknown option 'memory'"),
    ("params: 3\n" + READ, "1:9 `params` is a mapping"),
    ("steps:\n  m:\n    map: {function: 'math:sqroot', items: [1]}\n", "3:21 math has no function 'sqroot'"),
    ("steps:\n  m:\n    map: {function: 'nomodule:f', items: [1]}\n", "3:21 there is no module 'nomodule'"),
    ("steps:\n  m:\n    map: {function: 'math', items: [1]}\n", "3:21 `function`"),
    ("steps:\n  m:\n    map: {function: 'math:sqrt', items: [1, a]}\n", "3:41 the items are of several types"),
    ("steps:\n  m:\n    map: {function: 'math:sqrt', items: []}\n", "3: there are no items"),
    ("steps:\n  m:\n    map: {function: 'math:sqrt', items: [1.5]}\n", "3:21 the type that math:sqrt returns is not known"),
    ("steps:\n  m:\n    map: {function: 'math:pi', items: [1], returns: float64}\n", "3:21 math:pi is not a function"),
    ("steps:\n  m:\n    map: {function: 'math:sqrt', items: [1], arguments: {a: 2}, returns: float64}\n", "3: math:sqrt"),
    (READ + "  u:\n    filter: Clsoe > 0\n  v:\n    from: t\n    sort: [Opne]\n  w:\n    from: t\n    derive: {x: 'Open +'}\n",
     "5:13 unknown column 'Clsoe'", "8:12 unknown column 'Opne'", "11: cannot parse"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), [(c, e) for c, *e in BAD], ids=[e[-1] for _, *e in BAD])
def test_a_mistake_is_named_at_its_place(
    project: Path, config: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "bad.yaml"
    path.write_text(config)
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr().err
    for line in expected:
        place, message = line.split(" ", 1)
        assert any(f"bad.yaml:{place}" in s and message in s for s in said.splitlines()), said
    assert "Traceback" not in said


def found(path: Path) -> tuple[Issue, ...]:
    try:
        load(path).plan()
    except PipelineError as error:
        return error.issues
    return ()


def test_mutations_never_end_in_a_traceback(project: Path) -> None:
    text = (ROOT / "configs/stock_groupby.yaml").read_text().replace("data/stocks", f"{ROOT}/data/stocks")
    chance, path = random.Random(7), project / "mutant.yaml"
    words = [
        "",
        "no",
        "[]",
        "{}",
        "null",
        "1_0",
        "${x}",
        "Close",
        "avg(Open)",
        "'",
        ":",
        "- a",
        "local",
        "&a",
        "*a",
        "\t",
        "é",
        "9" * 30,
    ]
    parsed = 0
    for _ in range(400):
        lines = text.splitlines()
        for _ in range(chance.randint(1, 2)):
            at = chance.randrange(len(lines))
            kind, line = chance.randrange(5), lines[at]
            if kind == 0 and len(lines) > 1:
                del lines[at]
            elif kind == 1:
                lines.insert(at, line)
            elif kind == 2:
                lines[at] = line.split(":", 1)[0] + ": " + chance.choice(words)
            elif kind == 3:
                spot = chance.randrange(len(line) + 1)
                lines[at] = line[:spot] + chance.choice(words) + line[spot:]
            else:
                lines[at] = line.replace(
                    chance.choice(["e", "t", "a", "Open", "Close", "Date"]), chance.choice(words), 1
                )
        path.write_text("\n".join(lines), encoding="utf-8")
        issues = found(path)
        assert all(issue.place is not None for issue in issues), issues
        parsed += not any("not YAML" in issue.message for issue in issues)
    assert parsed > 200


def test_parameters(project: Path) -> None:
    path = project / "p.yaml"
    path.write_text(
        "params: {least: 5, file: TSLA, both: [Date, Open], cost: 1}\n"
        f'steps:\n  t:\n    read: {{path: "{ROOT}/data/stocks/${{file}}.csv", partitions: "${{least}}"}}\n'
        "  s:\n    select: \"${both}\"\n  f:\n    filter: Open > ${least} OR Date = '$${x}' OR true\n".replace(
            "Date =", "CAST(Date AS VARCHAR) ="
        )
    )
    plan = load(path, {"least": "7"}).plan()
    assert list(plan.nodes["s"].schema) == ["Date", "Open"]
    assert len(plan.nodes["t"].bound.partitions) == 7  # type: ignore[union-attr]
    assert load(path, {"file": "IBM"}).run("serial").outputs["f"].rows == 3270


def test_identity_is_meaning(project: Path) -> None:
    def identity(text: str) -> str:
        (project / "i.yaml").write_text(text)
        nodes = load(project / "i.yaml").plan().nodes
        return nodes[list(nodes)[-1]].identity

    first = identity(READ + "  u:\n    select: {columns: [Date, Open], cast: {Open: string}}\n")
    assert first == identity("# why\n" + READ + "  other:\n    select: {cast: {Open: string}, columns: [Date, Open]}\n")
    assert first != identity(READ + "  u:\n    select: {columns: [Open, Date], cast: {Open: string}}\n")
    assert first == identity(
        READ.replace('"}', '", partitions: 3}') + "  u:\n    select: {columns: [Date, Open], cast: {Open: string}}\n"
    )
