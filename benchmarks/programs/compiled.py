"""Compiles a config to its last table's dask.dataframe face: python compiled.py CONFIG STEP."""

import sys

import pipelines

frame = pipelines.load(sys.argv[1]).compile(sys.argv[2])[sys.argv[2]]
print(frame.npartitions, len(frame.dask))
