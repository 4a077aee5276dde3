"""Compiles a config: python compiled.py CONFIG to its tasks, python compiled.py CONFIG STEP to that table's dask.dataframe."""

import sys

import pipelines
from pipelines.lower import lower
from pipelines.stages import cut

made = pipelines.load(sys.argv[1])
if len(sys.argv) == 2:
    print(len(lower(cut(made.plan())).graph))
else:
    frame = made.compile(sys.argv[2])[sys.argv[2]]
    print(frame.npartitions, len(frame.dask))
