"""The step kinds: every module here but `base` holds the one of its name."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from pipelines.steps.base import Step


class _Kinds(Mapping[str, type[Step]]):
    """A kind's module is imported when it is first asked for: a config has few of them, and some bring numpy."""

    def __init__(self) -> None:
        self._names = dict.fromkeys(sorted(each.name for each in pkgutil.iter_modules(__path__) if each.name != "base"))

    def __getitem__(self, kind: str) -> type[Step]:
        if kind not in self._names:
            raise KeyError(kind)
        module = importlib.import_module(f"{__name__}.{kind}")
        return next(cls for cls in Step.__subclasses__() if cls.__module__ == module.__name__)

    def __contains__(self, kind: object) -> bool:
        return kind in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


KINDS: Mapping[str, type[Step]] = _Kinds()
