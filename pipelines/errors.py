"""What can be wrong, as values: a place, what is wrong there, and what to do about it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, order=True)
class Place:
    """A position in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Issue:
    """One mistake: where it is (when it has a place), what is wrong, what to do."""

    message: str
    remedy: str = ""
    place: Place | None = None

    def __str__(self) -> str:
        head = f"{self.place}: {self.message}" if self.place else self.message
        return f"{head}\n    {self.remedy}" if self.remedy else head


class PipelineError(Exception):
    """Issues that end a command, in the order of their places; the class decides the exit code."""

    exit_code = 1
    notes: tuple[str, ...] = ()
    """What may be behind them: doubts about types that were sampled."""

    def __init__(self, *issues: Issue) -> None:
        super().__init__(*issues)
        clean = (replace(i, message=redacted(i.message), remedy=redacted(i.remedy)) for i in issues)
        self.issues = tuple(sorted(clean, key=lambda issue: (issue.place is None, issue.place)))

    def __str__(self) -> str:
        return "\n".join(map(str, self.issues))


class ConfigError(PipelineError):
    """The config is wrong: nothing was run."""

    exit_code = 2


class DataError(PipelineError):
    """The data contradicts the config."""

    exit_code = 3


class MachineError(PipelineError):
    """The machine cannot do it: a full disk, a missing package, a cluster that does not answer."""

    exit_code = 4


_secrets = set[str]()


def keep_secret(value: str) -> None:
    """From now on `redacted` hides this text."""
    if value:
        _secrets.update((value, json.dumps(value)[1:-1], repr(value)[1:-1]))


def kept_secrets() -> tuple[str, ...]:
    return tuple(_secrets)


def redacted(text: str) -> str:
    """The text without secrets: for all that is printed or recorded."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy that names the nearest known word, or lists them all when none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near:
        near = [k for k in known if k.lower() == word.lower()]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known[:40])}" if known else ""
