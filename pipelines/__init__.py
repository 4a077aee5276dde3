"""Declarative data pipelines on Dask: a YAML file, checked completely, compiled to Dask graphs, run anywhere."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.errors import ConfigError, DataError, Issue, MachineError, PipelineError, Place
    from pipelines.pipeline import Pipeline, load

__all__ = ["ConfigError", "DataError", "Issue", "MachineError", "Pipeline", "PipelineError", "Place", "load"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: what stops a pod needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pipelines.pipeline" if name in ("Pipeline", "load") else "pipelines.errors"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
