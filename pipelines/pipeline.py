"""A config as an object: plan it, compile it, run it. Imports what a call needs when it is made: a check needs no Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from pipelines.errors import ConfigError, PipelineError
from pipelines.plan import Plan, make_plan
from pipelines.spec import Spec, load_spec
from pipelines.stages import cut
from pipelines.values import Array

if TYPE_CHECKING:
    from pipelines.run import Result


class Pipeline(Struct, frozen=True, dict=True):
    """A loaded config. Nothing has been read but headers and samples, nothing has run."""

    spec: Spec

    def __repr__(self) -> str:
        return f"Pipeline({str(self.spec.path)!r}: {', '.join(step.name for step in self.spec.steps)})"

    @cached_property
    def _plan(self) -> Plan:
        return make_plan(self.spec)

    def plan(self) -> Plan:
        """Every step with its output's columns and types: the plan of the last run, else one that is made now and kept. Raises
        ConfigError or DataError with all issues."""
        return self._plan

    def compile(self, *names: str, lengths: bool = False) -> Mapping[str, Any]:
        """Step: its table as a lazy dask.dataframe.DataFrame with Arrow dtypes, over the same tasks that a run runs; an array
        as a dask.array.Array, a model or metrics as a dask.delayed.Delayed.

        Default: every step that gives something. Nothing is computed here; but `lengths` counts the rows of arrays' chunks that the
        plan does not know, which costs what computing these arrays costs.
        """
        from pipelines.graph import face
        from pipelines.lower import lower

        plan = self.plan()
        frames = dict[str, Any]()
        for name in names or tuple(node.name for node in plan.nodes.values() if node.role != "sink"):
            plan.step(name)
            staged = cut(plan, (name,))
            frames[name] = face(lower(staged).table(staged.tables[name]), plan.nodes[name].gives)
            if lengths and isinstance(plan.nodes[name].gives, Array):
                frames[name].compute_chunk_sizes()
        return frames

    def run(
        self,
        executor: str | None = None,
        *,
        to: str | None = None,
        head: int = 10,
        say: Callable[[str], None] = lambda text: None,
        fresh: bool = False,
    ) -> Result:
        """Runs the pipeline (up to the step `to`); `fresh`: without what is in the store. Raises ConfigError, DataError or MachineError."""
        from pipelines.record import Log
        from pipelines.run import execute

        plan = self.__dict__["_plan"] = make_plan(self.spec)  # of the files and the code as they are now
        return execute(plan, executor, to=to, head=head, log=Log(say), fresh=fresh)


def load(path: str | Path, params: Mapping[str, Any] | None = None, overlays: Sequence[str | Path] = ()) -> Pipeline:
    """The pipeline in a config file, with overlays put over it and `params` in place of its own.

    Raises ConfigError with all issues.
    """
    spec, issues = load_spec(path, params, overlays)
    if issues:
        try:  # the steps without issues may have others when they meet the data
            make_plan(spec)
        except PipelineError as error:
            issues += error.issues
        raise ConfigError(*issues)
    return Pipeline(spec)
