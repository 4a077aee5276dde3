from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipelines.errors import ConfigError, Issue
from pipelines.steps.base import Context, Problems, Step
from pipelines.steps.predict import target_type
from pipelines.types import Schema, schema_of
from pipelines.values import Model
from pipelines.work import Builder, Ref, Work


@dataclass(frozen=True)
class Loading(Work):
    path: str
    digest: str

    @property
    def identity(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.digest,)

    @property
    def packages(self) -> tuple[str, ...]:  # type: ignore[override]
        from pipelines.learning.estimators import packages

        assert isinstance(self.gives, Model)
        return packages(self.gives.estimator)

    def lower(self, builder: Builder, inputs: Sequence[Sequence[Ref]]) -> Sequence[Ref]:
        from pipelines.learning.model import OnDisk

        return [builder.task("", (0,), OnDisk, self.path, self.digest)]


class LoadModel(Step):
    """Load a model that `save_model` wrote. Its input columns are checked against the table's when the plan is made.

    Nothing in the file is executed: of an estimator in skops' format types other than scikit-learn's, NumPy's and SciPy's are refused.
    """

    kind = "load_model"
    role = "source"
    takes = ()
    gives = "model"
    shorthand = "path"
    example: ClassVar[str] = "load_model: data/models/direction.model"

    path: str = Field(min_length=1, description="The file, relative to the project.")

    def patterns(self) -> Sequence[str]:
        return [self.path]

    def matching(self, root: Path, pattern: str) -> Sequence[str]:
        if not (root / pattern).is_file():
            raise ConfigError(
                Issue(f"there is no file {pattern}", f"it is looked for in {root}; `save_model` writes it")
            )
        return [str(root / pattern)]

    def bind(self, schema: Schema, problems: Problems, context: Context) -> Work | None:
        from pipelines.learning.features import lags_of
        from pipelines.learning.model import read_manifest

        path = Path(context.root / self.path)
        try:
            found, digest = read_manifest(path), hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            about, asked = found["about"], (found["features"] or {}).get("asked", {})
            gives = Model(
                found["task"], schema_of(found["inputs"]), found["target"], found["target_type"], about["estimator"],
                about["how"], lags_of(asked.get("lags")), True, found.get("chances", True),
            )  # fmt: skip
            target_type(gives)
        except FileNotFoundError:
            problems.add(
                ("path",),
                f"there is no file {self.path}",
                f"it is looked for in {context.root}; `save_model` writes it",
            )
            return None
        except IsADirectoryError:
            problems.add(("path",), f"{self.path} is a folder", "name a file that `save_model` wrote")
            return None
        except (OSError, ValueError) as error:
            problems.add(("path",), str(error).replace(str(path), self.path), "name a file that `save_model` wrote")
            return None
        except (AttributeError, KeyError, TypeError):
            problems.add(("path",), f"{self.path} is damaged: it does not say what it predicts", "save the model anew")
            return None
        return Loading(gives, {}, str(path), digest)
