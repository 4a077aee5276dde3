"""Declarative data pipelines on Dask: a YAML file, checked completely, compiled to Dask graphs, run anywhere."""

import gc

_collects = gc.isenabled()
gc.disable()  # imports make many objects and no garbage: a tenth of the start-up

from pipelines.errors import ConfigError, DataError, Issue, MachineError, PipelineError, Place  # noqa: E402
from pipelines.pipeline import Pipeline, load  # noqa: E402

gc.freeze()  # nor will what is there now ever be garbage
if _collects:
    gc.enable()

__all__ = ["ConfigError", "DataError", "Issue", "MachineError", "Pipeline", "PipelineError", "Place", "load"]
