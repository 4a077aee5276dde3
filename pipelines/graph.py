"""All that touches Dask's internals: the collection of Polars tables, its dask.dataframe face, sizes and serializers.

`dask._task_spec` is private and Dask is pinned for it: `dask.delayed` takes 7.9 s for 10,000 partitions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from dask._task_spec import List, Task, TaskRef
from dask.base import DaskMethodsMixin
from dask.sizeof import sizeof
from msgspec import Struct

from pipelines.errors import DataError, Issue
from pipelines.exchange import Parcel, Room
from pipelines.types import Schema
from pipelines.values import Array, Value
from pipelines.work import Ref

Key = tuple[Any, ...]
"""A name and whole numbers."""
Graph = dict[Key, Any]


def task(key: Key, function: Callable[..., Any], *arguments: Any) -> Task:
    """One task; `Ref`s and `Refs` among the arguments are other tasks' results."""
    return Task(key, function, *arguments)


def ref(key: Key) -> TaskRef:
    return TaskRef(key)


def refs(keys: Iterable[Key]) -> List:
    return List(*[TaskRef(key) for key in keys])


def needed(graph: Graph, keys: Iterable[Key]) -> Graph:
    """The tasks that these need."""
    found, waiting = Graph(), list(keys)
    while waiting:
        if (key := waiting.pop()) not in found:
            found[key] = graph[key]
            waiting += getattr(graph[key], "dependencies", ())  # a future has none
    return found


class Chunk(Struct, frozen=True):
    """A task that Dask made: what NumPy refuses is said as what the data did."""

    function: Any

    def __call__(self, *given: Any, **named: Any) -> Any:
        try:
            return self.function(*given, **named)
        except (ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise DataError(
                Issue(f"NumPy cannot do this: {error}", "look at the arrays' shapes and numbers with --to")
            ) from None


class Tasks:
    """The tasks of one step that makes its own: see `steps.base.Builder`."""

    def __init__(
        self, graph: Graph, name: str, room: Room | None, around: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self.graph, self.name, self.room, self.around = graph, name, room, around
        self.names = {name}

    def task(self, part: str, index: tuple[int, ...], function: Callable[..., Any], *arguments: Any) -> Ref:
        key: Key = (f"{part}+{self.name}" if part else self.name, *index)
        self.graph[key] = Task(key, self.around(function), *map(_argument, arguments))
        self.names.add(key[0])
        return Ref(key)

    def once(self, part: str, function: Callable[..., Any], given: Ref) -> Ref:
        key: Key = (f"{part}+{given.key[0]}", *given.key[1:])
        if key not in self.graph:
            self.graph[key] = Task(key, function, _argument(given))
        return Ref(key)

    def add(self, tasks: Mapping[Any, Any]) -> None:
        for key, node in tasks.items():
            self.graph[key] = node
            if type(node) is Task:  # not a list or dict of results
                function = self.around(Chunk(node.func))
                self.graph[key] = Task(key, function, *node.args, _data_producer=node.data_producer, **node.kwargs)
        self.names.update(key[0] for key in tasks if isinstance(key, tuple))


def _argument(given: Any) -> Any:
    if isinstance(given, Ref):
        return TaskRef(given.key)
    return List(*map(_argument, given)) if isinstance(given, list) else given


class Table(DaskMethodsMixin):
    """The partitions of one table as a Dask collection: `graph` holds the tasks, `keys` names the partitions in order."""

    def __init__(self, graph: Mapping[Key, Any], keys: Sequence[Key], schema: Schema, name: str) -> None:
        self.graph, self.keys, self.schema, self.name = graph, list(keys), schema, name

    @staticmethod
    def __dask_scheduler__(dsk: Any, keys: Any, **options: Any) -> Any:
        import dask.threaded

        return dask.threaded.get(dsk, keys, **options)

    @staticmethod
    def __dask_optimize__(dsk: Any, keys: Any, **options: Any) -> Any:
        return dsk

    def __dask_graph__(self) -> Mapping[Key, Any]:
        return self.graph

    def __dask_keys__(self) -> list[Key]:
        return self.keys

    def __dask_tokenize__(self) -> Any:
        return (self.name, len(self.keys))

    def __dask_postcompute__(self) -> Any:
        return pl.concat, ()

    def __dask_postpersist__(self) -> Any:
        return self._rebuild, ()

    def _rebuild(self, graph: Mapping[Key, Any], *, rename: Any = None) -> Table:
        return Table(graph, self.keys, self.schema, self.name)

    def dataframe(self) -> Any:
        """The dask.dataframe face over the same tasks, with Arrow dtypes. Imports dask.dataframe (one to three seconds)."""
        from pipelines.dataframe import frame_over

        return frame_over(self)


def face(table: Table, value: Value) -> Any:
    """What Dask knows the value as. Imports what that takes."""
    if isinstance(value, Array):
        import dask.array as da

        from pipelines.arrays import chunked, cut_into

        chunks = chunked(cut_into(value, len(table.keys)))
        return da.Array(table.graph, str(table.keys[0][0]), chunks, dtype=value.dtype)
    if value.kind == "table":
        return table.dataframe()
    from dask.delayed import Delayed

    return Delayed(table.keys[0], table.graph)


def register_polars() -> None:
    """Tells Dask a Polars table's size and how to send it. Unknown, it counts as 56 bytes and cannot be read back."""
    sizeof.register(pl.DataFrame)(_size)
    sizeof.register(Parcel)(lambda parcel: 64 + sum(_size(frame) for frame in parcel.frames if frame is not None))


def _size(frame: pl.DataFrame) -> int:
    return int(frame.estimated_size()) + 64


def register_serializers() -> None:
    """The same for a cluster; runs on client and workers."""
    from distributed.protocol import dask_deserialize, dask_serialize

    @dask_serialize.register(pl.DataFrame)  # type: ignore[untyped-decorator]
    def _serialize(frame: pl.DataFrame) -> tuple[dict[str, Any], list[memoryview]]:
        out = io.BytesIO()
        # a copy of the handle, not of the rows: to write, Polars locks it and gives up Python's lock now and then; a task that
        # uses the same one meanwhile has that and waits for this (2.1)
        frame.clone().write_ipc_stream(out)
        return {}, [out.getbuffer()]

    @dask_deserialize.register(pl.DataFrame)  # type: ignore[untyped-decorator]
    def _deserialize(header: dict[str, Any], frames: list[Any]) -> pl.DataFrame:
        return pl.read_ipc_stream(io.BytesIO(b"".join(frames)))


register_polars()
