"""The Python functions of the configs in `configs/`."""
