"""Declarative data pipelines on Dask: a YAML file, checked completely, compiled to Dask graphs, run anywhere."""

from pipelines.errors import ConfigError, DataError, Issue, MachineError, PipelineError, Place
from pipelines.pipeline import Pipeline, load

__all__ = ["ConfigError", "DataError", "Issue", "MachineError", "Pipeline", "PipelineError", "Place", "load"]
