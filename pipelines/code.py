"""The user's own code: found beside the config, carried by content, and the same in every process.

A function's modules are those of the project that it imports, directly or not; their sources travel to the workers as they
were when the plan was made. Another content is another digest, and is imported anew.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from msgspec import Struct

from pipelines.errors import Issue, MachineError, did_you_mean


class Module(Struct, frozen=True):
    """One of the project's modules."""

    name: str
    path: str
    source: bytes
    is_package: bool


class Code(Struct, frozen=True):
    """Modules of a project, by content."""

    modules: tuple[Module, ...]
    digest: str
    """Of names and sources: equal in every copy of the project."""

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Apart in every copy: a module may look for files beside it."""
        return self.digest, tuple(module.path for module in self.modules)


class Function(Struct, frozen=True):
    """A function by name, and the key of the code that it is part of; small, because it travels with the tasks."""

    module: str
    name: str
    code: tuple[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        return self.code[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    def load(self) -> Callable[..., Any]:
        """The function itself. Raises MachineError where this process cannot import it."""
        try:
            return _load(self)
        except (Exception, SystemExit) as error:
            said = f"{type(error).__name__}: {error}"
        where = _worker()  # outside of the except block, whose error may not be picklable
        raise MachineError(
            Issue(f"cannot import {self.module}{where}: {said}", "install there what the module imports")
        )


class FunctionError(Exception):
    """Why a name is not a function that can be called."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy


def find(text: str, folders: Sequence[Path]) -> tuple[Function, Callable[..., Any]]:
    """The function that `module:function` names, looked for in these folders, then among the installed modules.

    Raises FunctionError.
    """
    module, _, name = text.partition(":")
    try:
        code = collect(module, folders)
        provide(code)
        function = Function(module, name, code.key)
        loaded = _load(function)
    except SyntaxError as error:
        where = f"{Path(error.filename or module).name}" + (f", line {error.lineno}" if error.lineno else "")
        raise FunctionError(f"{where}: {error.msg}", "mend the module") from None
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            known = sorted(path.stem for folder in folders for path in folder.glob("*.py"))
            near = did_you_mean(module, known)
            above, _, last = missing.rpartition(".")
            inside = [folder.joinpath(*above.split(".")) for folder in folders] if above else list(folders)
            folder = next((each for each in inside if each.is_dir()), inside[0])
            place = f"put {last}.py into {folder}"
            raise FunctionError(f"there is no module {module!r}", near if near.startswith("did") else place) from None
        raise FunctionError(f"importing {module} failed: there is no module {missing!r}", "install it") from None
    except AttributeError as error:
        if error.name != name:
            raise FunctionError(f"importing {module} failed: {error}", "mend the module") from None
        names = [each for each in dir(error.obj) if not each.startswith("_")]
        raise FunctionError(
            f"{module} has no function {name!r}", did_you_mean(name, names) or "it defines none"
        ) from None
    except (Exception, SystemExit) as error:
        raise FunctionError(f"importing {module} failed: {type(error).__name__}: {error}", "mend the module") from None
    if inspect.isclass(loaded) or not hasattr(loaded, "__call__"):  # noqa: B004 - mypy knows that it is callable
        raise FunctionError(f"{text} is not a function", "name a function")
    if inspect.iscoroutinefunction(loaded) or inspect.isasyncgenfunction(loaded):
        remedy = "write a plain function: `def f(item): return asyncio.run(g(item))`"
        raise FunctionError(f"{text} is async, and nothing waits for it", remedy)
    if inspect.isgeneratorfunction(loaded):
        raise FunctionError(f"{text} yields", "return what it makes")
    return function, loaded


def collect(module: str, folders: Sequence[Path]) -> Code:
    """The project's modules that `module` needs. Without any, the digest is that of the installed module."""
    found, waiting = dict[str, Module](), [module]
    while waiting:
        name = waiting.pop()
        for part in _parents(name):
            if part not in found and (here := _located(part, folders)):
                found[part] = here
                waiting += _imports(here)
    modules = tuple(found[name] for name in sorted(found))
    digest = hashlib.blake2b(digest_size=16)
    for each in modules:
        digest.update(f"{each.name}\0{len(each.source)}\0".encode() + each.source)
    if not modules:
        for name, source in _installed(module.split(".", maxsplit=1)[0]):
            digest.update(f"{name}\0{len(source)}\0".encode() + source)
    return Code(modules, digest.hexdigest())


def _installed(package: str) -> Iterator[tuple[str, bytes]]:
    """The sources of an installed package: all, for it may be one that is worked on (`pip install -e`)."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    files = [(path.relative_to(folder), path) for folder in folders for path in sorted(folder.rglob("*.py"))]
    if not files and spec and spec.origin and Path(spec.origin).is_file():
        files = [(Path(package), Path(spec.origin))]
    yield (package, b"")
    yield from ((name.as_posix(), path.read_bytes()) for name, path in files)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _located(name: str, folders: Sequence[Path]) -> Module | None:
    if name.split(".", maxsplit=1)[0] in sys.stdlib_module_names or name.split(".", maxsplit=1)[0] == __package__:
        return None
    for folder in folders:
        path = folder.joinpath(*name.split("."))
        for file, is_package in ((path / "__init__.py", True), (path.with_suffix(".py"), False)):
            if file.is_file():
                return Module(name, str(file), file.read_bytes(), is_package)
        if any(path.glob("*.py")) and not _is_installed(
            name.split(".", maxsplit=1)[0]
        ):  # a package without __init__.py
            return Module(name, str(path / "__init__.py"), b"", True)
    return None


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None and not isinstance(spec.loader, _Loader)


_PARSING = threading.Lock()


def syntax(source: str | bytes, path: str = "<unknown>", mode: str = "exec") -> ast.AST:
    """`ast.parse`, which in Python 3.11 fails when two threads are at it: it counts their depths together (gh-106905)."""
    with _PARSING:
        tree: ast.AST = ast.parse(source, path, mode)
    return tree


def _imports(module: Module) -> Iterator[str]:
    """The names of modules that a module's imports may mean; also where they are texts, but not where they are computed."""
    own = module.name if module.is_package else module.name.rpartition(".")[0]
    nodes = list(ast.walk(syntax(module.source, module.path)))
    importers = {"import_module", "__import__"}
    for node in nodes:  # their other names: `from importlib import import_module as im`, `im = importlib.import_module`
        if isinstance(node, ast.ImportFrom):
            importers |= {alias.asname for alias in node.names if alias.asname and alias.name in importers}
        elif isinstance(node, ast.Assign) and _last_name(node.value) in importers:
            importers |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if base := _resolved(node.module or "", node.level, own):
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in importers:
            yield from _imported_by_call(node, own)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                # `from package import *` imports its modules that are named there
                texts = (each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant))
                yield from (f"{module.name}.{text}" for text in texts if isinstance(text, str) and text.isidentifier())


def _imported_by_call(call: ast.Call, own: str) -> Iterator[str]:
    """Of `import_module(name, package)` or `__import__(name, globals, locals, fromlist, level)`, by whatever name it is called."""
    given = dict[str | None, ast.expr]((keyword.arg, keyword.value) for keyword in call.keywords)
    given |= zip(("name", "package", "locals", "fromlist", "level"), call.args, strict=False)
    values = {name: value.value for name, value in given.items() if isinstance(value, ast.Constant)}
    text, package, level = values.get("name"), values.get("package"), values.get("level")
    if not isinstance(text, str):
        return
    name = text.lstrip(".")
    if not all(part.isidentifier() for part in name.split(".")) and name:
        return
    above = level if isinstance(level, int) else len(text) - len(name)
    if base := _resolved(name, above, package if isinstance(package, str) else own):
        yield base
        for each in ast.walk(given["fromlist"]) if "fromlist" in given else ():
            if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value.isidentifier():
                yield f"{base}.{each.value}"


def _resolved(name: str, level: int, package: str) -> str:
    if not level:
        return name
    above = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*above, name] if name else above)


def _last_name(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


# ---- in any process

_provided = dict[tuple[str, tuple[str, ...]], Code]()
_functions = dict[Function, Callable[..., Any]]()
_finders: dict[tuple[str, tuple[str, ...]], _Finder] = {}
_lock = threading.RLock()


def provide(code: Code) -> None:
    """Makes the code's functions loadable in this process."""
    _provided[code.key] = code


def provided(function: Function) -> Code:
    return _provided[function.code]


def _load(function: Function) -> Callable[..., Any]:
    with _lock:
        code = _provided[function.code]
        _activate(code, function.module)
        if function not in _functions:
            found: Callable[..., Any] = getattr(_imported(code, function.module), function.name)
            _functions[function] = found
        return _functions[function]


def _activate(code: Code, name: str) -> None:
    """What is imported from now on is the code's: functions may import when they are called, and pickle looks for their classes.

    Modules of other code give way, and come back with it. Code whose modules agree stays.
    """
    active = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    if any(finder.code.key == code.key for finder in active):
        return
    gone = [finder for finder in active if not _agree(finder.code, code, name)]
    for finder in gone:
        sys.meta_path.remove(finder)
        loaded = {known: sys.modules[known] for known in finder.modules if known in sys.modules}
        finder.aside = {known: module for known, module in loaded.items() if isinstance(getattr(module, "__loader__", None), _Loader)}  # fmt: skip
    for known in {known for finder in gone for known in finder.aside}:
        del sys.modules[known]
    if code.modules:
        ours = _finders.setdefault(code.key, _Finder(code))
        sys.meta_path.insert(0, ours)
        for known, module in ours.aside.items():
            sys.modules.setdefault(known, module)


def _imported(code: Code, name: str) -> types.ModuleType:
    """Imports from the code, which is active; what the process imported itself is put back."""
    foreign = {
        module.name: sys.modules.pop(module.name)
        for module in code.modules
        if module.name in sys.modules and not _is_from(module, sys.modules[module.name])
    }
    try:
        return importlib.import_module(name)
    finally:
        sys.modules.update(foreign)


def _is_from(module: Module, loaded: types.ModuleType) -> bool:
    loader = getattr(loaded, "__loader__", None)
    return isinstance(loader, _Loader) and loader.module == module


def _agree(one: Code, other: Code, name: str) -> bool:
    """Whether no module of either would be taken for another by the other; `name` is imported from the other."""
    mine, theirs = ({module.name: module for module in code.modules} for code in (one, other))
    wanted = {*theirs, *_parents(name), *(part for module in other.modules for part in _imports(module))}
    known = {*mine, *(part for module in one.modules for part in _imports(module))}
    return all(mine.get(each) == theirs.get(each) for each in (wanted & mine.keys()) | (known & theirs.keys()))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, code: Code) -> None:
        self.code = code
        self.modules = {module.name: module for module in code.modules}
        self.aside = dict[str, types.ModuleType]()
        """What it had loaded when other code took its place."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if (module := self.modules.get(fullname)) is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname, module.path, loader=_Loader(module), submodule_search_locations=[] if module.is_package else None
        )


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, module: Module) -> None:
        self.module = module

    def is_package(self, fullname: str) -> bool:
        return self.module.is_package

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.module.source)

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.module.source, self.module.path)


def _worker() -> str:
    """` on the worker ...`, in one."""
    if "distributed" not in sys.modules:
        return ""
    from distributed import get_worker

    try:
        return f" on the worker {get_worker().address}"
    except ValueError:
        return ""
