from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field

from pipelines.source import RUN
from pipelines.steps.base import Context, Problems, Step
from pipelines.types import Schema
from pipelines.values import Nothing
from pipelines.work import Builder, Output, Ref, Work


@dataclass(frozen=True)
class Saving(Work):
    where: Output

    @property
    def output(self) -> Output:
        return self.where

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        metrics = inputs[1][0] if len(inputs) > 1 else None
        return [builder.task("", (0,), _with, inputs[0][0], metrics)]


def _with(model: Any, metrics: Any) -> Any:
    return model if metrics is None else replace(getattr(model, "read", model), metrics=dict(metrics.values))


class SaveModel(Step):
    """Save a model to a file: the estimator (in skops' or XGBoost's own format, never a pickle), its input columns, features, classes, the
    versions it was made with, the training's identity, and with `from: [model, metrics]` the metrics. It appears when it is complete.

    What exists outside the run's folder is kept: replacing it takes `overwrite: true`.
    """

    kind = "save_model"
    role = "sink"
    takes = (("model",), ("metrics",))
    optional = 1
    gives = "nothing"
    shorthand = "path"
    example: ClassVar[str] = 'save_model: {path: "models/direction.model", overwrite: true}'

    path: str = Field(min_length=1, description="The file, relative to the project; ${run} is this run's folder.")
    overwrite: bool = Field(False, description="Replace what is there.")

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        if RUN in self.path.removeprefix(RUN) or (self.path.startswith(RUN) and not self.path.startswith(RUN + "/")):
            problems.add(("path",), "${run} stands at the start of a path", "write ${run}/name.model")
            return None
        path = self.path if self.path.startswith(RUN) else str(context.root / self.path)
        if not self.path.startswith(RUN) and os.path.lexists(path) and (not self.overwrite or os.path.isdir(path)):
            remedy = (
                "choose another path"
                if os.path.isdir(path)
                else "add `overwrite: true` to replace it, or choose another path"
            )
            problems.add(("path",), f"{self.path} {'is a folder' if os.path.isdir(path) else 'exists'}", remedy)
            return None
        return Saving(Nothing(), {}, Output(path, "model", False, self.overwrite))
