"""The step kinds: every module here but `base` holds one."""

import importlib
import pkgutil

from pipelines.steps.base import Step


def _found() -> dict[str, type[Step]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {cls.kind: cls for cls in sorted(Step.__subclasses__(), key=lambda cls: cls.kind)}


KINDS = _found()
