"""Every example in README.md and docs/ is tried.

The blocks of one file run in order, in one project folder that has a copy of `configs/` and `data/`:

- `yaml`: a config is checked; a part of one (a step, its kind, a top-level key) is checked inside of a small config. A block
  whose first line is `# NAME.yaml` is written to that file, for the commands below it; one with mistakes has `# wrong` after that.
- `console`: lines that start with `$ ` are run by bash, what follows must be what they print. Times, the names of run folders,
  ports and cores may differ; a line `...` stands for any lines. `python -m tests.test_docs` writes the output anew.
- `sh`: lines that start with `pipelines` must succeed. `python`: runs.
- `<!-- not run: reason -->` on the line above a block keeps it from being run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.source import parse_yaml
from pipelines.steps import KINDS

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"(?P<skip><!-- not run: .+ -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_VOLATILE = (
    (r"\d+(\.\d+)? (s|min)\b", "T s"),
    (r" +T s", " T s"),
    (r"\d{8}T\d{6}Z", "TIME"),
    (r"-[0-9a-f]{8}\b", "-ID"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"\b\d+ threads?\b", "N threads"),
    (r"threads \(\d+\)", "threads (N)"),
    (r"\(looked in [^)]*\)", "(looked in FOLDER)"),
    (r" +$", ""),
)


@dataclass(frozen=True)
class Block:
    file: Path
    line: int
    language: str
    text: str
    span: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(file: Path) -> Iterator[Block]:
    """The file's blocks that are run."""
    text = file.read_text()
    for found in _FENCE.finditer(text):
        if not found["skip"]:
            line = text.count("\n", 0, found.start("text"))
            yield Block(file, line, found["language"], textwrap.dedent(found["text"]), found.span("text"))


def project(folder: Path) -> Path:
    """A folder like a user's, with `pipelines` as a command in `bin/`."""
    for name in ("configs", "data"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "bin").mkdir()
    run = f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m pipelines'
    commands = {
        "pipelines": f'{run} "$@"',
        "make": f'[ "$1" = run-local ] && {run} run configs/stock_groupby.yaml --executor local --performance-report',
    }
    for name, text in commands.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    return folder


def output(command: str, folder: Path) -> tuple[str, int]:
    """What bash prints, on both streams, and its exit code."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "COLUMNS": "100"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout, done.returncode


def commands(block: Block) -> list[tuple[str, str]]:
    """(command, what the block says it prints)."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"{block}: a console block starts with `$ `"
    return [(command.strip(), said) for command, _, said in (part.partition("\n") for part in parts[1:])]


def plain(text: str) -> list[str]:
    """The lines, without what differs from run to run."""
    for pattern, stands_for in _VOLATILE:
        text = re.sub(pattern, stands_for, text, flags=re.MULTILINE)
    lines = text.strip("\n").split("\n")
    done = iter(sorted(line for line in lines if line.endswith("done in T s")))  # stages end in any order
    return [next(done) if line.endswith("done in T s") else line for line in lines]


def agree(said: str, printed: str) -> bool:
    pattern = "\n".join(".*" if line.strip() == "..." else re.escape(line) for line in plain(said))
    return re.fullmatch(pattern, "\n".join(plain(printed)), re.DOTALL) is not None


# What each kind of block means

VALUES = """  paths: {simulate: {paths: 100, assets: {A: {volatility: 0.2}, B: {volatility: 0.3}}}}
  labelled: {from: prices, derive: {up: Close > Open, change: Close - Open, range: High - Low}}
  model: {train: {estimator: sklearn.linear_model.LogisticRegression, target: up, columns: [change, range]}}
"""
"""Steps above that give what a step on other values takes."""


def try_yaml(block: Block, folder: Path) -> None:
    named = re.match(r"# (\S+\.yaml)( +# wrong)?\n", block.text)
    if named:
        (folder / named[1]).write_text(block.text)
        if named[2]:
            return
    config = folder / (named[1] if named else "block.yaml")
    text = block.text
    node = parse_yaml(text, str(block)).value
    assert isinstance(node, dict), block
    keys = set(node)
    if "steps" not in keys:  # a part of a config: of `steps`, of a step, or beside `steps`
        reading = "steps:\n  prices: {read: data/stocks/*.csv}\n  more: {filter: Close > 1}\n"
        parts = [keys, *(set(part.value) for part in node.values() if isinstance(part.value, dict))]
        kinds = [KINDS[kind] for kind in set[str]().union(*parts) & set(KINDS)]
        if any(kind.gives not in ("table", "nothing") or kind.takes not in ((), (("table",),)) for kind in kinds):
            reading += VALUES
        if any(isinstance(step.value, dict) and step.value.keys() & set(KINDS) for step in node.values()):
            text = reading + textwrap.indent(text, "  ")
        elif keys & set(KINDS):
            text = f"{reading}  step:\n{textwrap.indent(text, '    ')}"
        else:
            text += reading
    config.write_text(text)
    assert main(["check", str(config)]) == 0, f"{block}\n{text}"


def try_console(block: Block, folder: Path) -> None:
    for command, said in commands(block):
        printed, _ = output(command, folder)
        assert agree(said, printed), f"{block}: $ {command}\n{printed}"


def try_sh(block: Block, folder: Path) -> None:
    for line in block.text.splitlines():
        if line.startswith("pipelines "):
            printed, code = output(line, folder)
            assert code == 0, f"{block}: {line}\n{printed}"


def try_python(block: Block, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stderr}"


TRY: dict[str, Callable[[Block, Path], None]] = {
    "yaml": try_yaml,
    "console": try_console,
    "sh": try_sh,
    "python": try_python,
}


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_examples(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path)
    monkeypatch.chdir(folder)
    for block in blocks(file):
        if block.language in TRY:
            TRY[block.language](block, folder)


def test_examples_are_found() -> None:
    assert len([block for file in FILES for block in blocks(file) if block.language in TRY]) > 20


def test_what_may_differ() -> None:
    said = "done in 2.11 s; record in runs/20261121T063500Z-stock-groupby-4d60eb4d"
    assert agree(said, "done in 10.3 s; record in runs/20270101T000000Z-stock-groupby-00000000\n")
    assert not agree(said, "done in 2.11 s; record in runs/20261121T063500Z-stocks-4d60eb4d")
    assert agree("a\n...\nd", "a\nb\nc\nd\n")
    assert not agree("a\n...\nd", "a\nb\n")


def written_anew(file: Path, folder: Path) -> None:
    """Puts what commands print today into the file's console blocks, where it has changed."""
    text, changes = file.read_text(), list[tuple[tuple[int, int], str]]()
    for block in blocks(file):
        if block.language == "yaml":
            try_yaml(block, folder)
        elif block.language == "console":
            shown = ""
            for command, said in commands(block):
                printed, _ = output(command, folder)
                today = "".join(line.rstrip() + "\n" for line in printed.strip("\n").splitlines())
                shown += f"$ {command}\n" + (said if agree(said, printed) else today)
            changes.append((block.span, shown))
    for (start, end), shown in reversed(changes):
        text = text[:start] + shown + text[end:]
    file.write_text(text)


if __name__ == "__main__":
    import tempfile

    for each in FILES:
        with tempfile.TemporaryDirectory() as made:
            os.chdir(project(Path(made)))
            written_anew(each, Path(made))
