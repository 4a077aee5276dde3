"""What a step is bound to that makes tasks of its own: on arrays, features, models and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from pipelines.code import Function
from pipelines.errors import Issue
from pipelines.types import Schema
from pipelines.values import Value


@dataclass(frozen=True)
class Ref:
    """Another task's result, among the arguments of a task."""

    key: Any


class Builder(Protocol):
    """Takes the tasks of one step. Arguments may be `Ref`s and lists of them; `index` counts within `part`."""

    name: str
    """Of the stage: it names what the step means."""
    room: Any
    """For rows that wait: see `exchange.Room`. None where processes share no disk."""

    def task(self, part: str, index: tuple[int, ...], function: Callable[..., Any], *arguments: Any) -> Ref:
        """Adds a task; what it gives."""

    def once(self, part: str, function: Callable[..., Any], given: Ref) -> Ref:
        """A task of one result that all steps share which ask for it; what it gives."""

    def add(self, tasks: Mapping[Any, Any]) -> None:
        """Adds tasks that Dask made."""


@dataclass(frozen=True)
class Work:
    """What a step on other values than tables is bound to: it makes tasks of its inputs' partitions, chunks or values."""

    gives: Value
    schema: Schema
    """Of the table that it gives; else empty."""
    identity: ClassVar[tuple[str, ...]] = ()
    """What the answer depends on beside options and inputs."""
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    """What computes it: another version may give other numbers."""
    functions: ClassVar[tuple[Function, ...]] = ()
    cuts: ClassVar[tuple[int, ...]] = ()
    """What its chunks depend on beside how many there are, and its inputs'."""
    rows: ClassVar[tuple[int, ...] | None] = None
    """Of each partition of the table that it gives, where that is known."""

    def reads_of(self, index: int, wanted: frozenset[str]) -> frozenset[str]:
        """The columns of the input of that index, where that is a table."""
        return frozenset()

    def prune(self, wanted: frozenset[str]) -> Work:
        """The same where of the table that it gives only these columns are read."""
        return self

    def count(self, inputs: Sequence[int]) -> int:
        """Of how many partitions or chunks its result is, when its inputs are of so many."""
        return 1

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        """Adds the tasks; the partitions or chunks of the result, in order."""
        raise NotImplementedError

    def refuses(self, bytes: float, memory: float) -> Issue | None:
        """Why it cannot be done on inputs of so many bytes in workers of so much memory."""
        return None

    @property
    def output(self) -> Output | None:
        """Where it writes, if it is a sink."""
        return None


@dataclass(frozen=True)
class Output:
    """What a sink step is bound to."""

    path: str
    """Absolute, or starting with ${run}."""
    format: Literal["csv", "parquet", "model"]
    per_partition: bool
    overwrite: bool
