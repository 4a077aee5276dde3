"""A config file → a validated spec: parameters put in, options typed, inputs named. All mistakes at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from pipelines.errors import ConfigError, Issue, Place, did_you_mean, nearest
from pipelines.params import merged, resolve, undeclared
from pipelines.source import CUT, CUT_REMEDY, Node, read_yaml, substitute
from pipelines.steps import KINDS
from pipelines.steps.base import Step
from pipelines.values import Kind

M = TypeVar("M", bound=BaseModel)
Checkpoint = Literal["memory", "disk"]
RETRIES = 3
TOP = {
    "name": "The pipeline's name: letters, digits, - and _. Default: the file's name.",
    "description": "Text for people.",
    "params": "Values that `${name}` puts in, or {type, default, choices}; `-p name=value` replaces them.",
    "executor": "Where to run when the command line does not say: a kind, or options.",
    "store": "Where `checkpoint: disk` keeps tables: a folder or a URL, or {url, options}. Default: runs/.store.",
    "steps": "The steps, by name, in order: each reads the table above it unless `from` says otherwise.",
}
COMMON = {
    "from": "The step whose table (array, model, ...) is the input; for some kinds a list of steps. Default: the nearest step above that gives what is taken.",
    "checkpoint": "`memory` keeps the table in memory (Dask's `persist()`) until its last use; `disk` keeps a durable copy, for later runs; what reads a partition does not wait for the others.",
    "retries": "How often a task is tried again when what failed may pass: a read or write that was interrupted, a connection. Default: 3.",
    "timeout": "Ends the run when the step's tasks take longer in all, as `90 s` or `2 h`. Default: never.",
    "description": "Text for people.",
}
KIND_WORDS: Mapping[Kind, str] = {
    "table": "a table",
    "array": "an array",
    "features": "features",
    "model": "a model",
    "metrics": "metrics",
}
_LONGEST_NAME = 100
_NO_KIND = {
    **dict.fromkeys(("limit", "head"), "`sort: {by: [Date], limit: 10}`; in the table's order `top: {n: 10}`"),
    "pivot": "a column for each value in `aggregate`: `a: sum(x) FILTER (WHERE kind = 'a')`",
    **dict.fromkeys(("sql", "query"), "there are no queries: write their expressions in `filter`, `derive` and `aggregate`"),
}  # fmt: skip
"""What other tools have a step for."""
EXECUTORS = ("serial", "threads", "processes", "local", "address", "kubernetes")
_USED_BY = {
    "workers": ("processes", "local", "kubernetes"),
    "threads": ("threads", "processes", "local", "kubernetes"),
    "memory_limit": ("serial", "threads", "processes", "local", "kubernetes"),
    "address": ("address",),
    "dashboard_port": ("local", "kubernetes"),
    "kubernetes": ("kubernetes",),
}


class KubernetesOptions(BaseModel):
    """The `executor.kubernetes:` block."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    image: str | None = Field(None, description="What all pods run. Default: pipelines:VERSION, of this version.")
    pull: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When a node fetches the image."
    )
    context: str | None = Field(None, description="Which of the kubeconfig's contexts. Default: the current one.")
    namespace: str | None = Field(None, description="Where the pods run. Default: the context's.")
    attach: str | None = Field(
        None, description="The name of a DaskCluster that runs already: it is used, and never deleted."
    )
    cpu: str = Field(
        "500m", pattern=r"^\d+(\.\d+)?m?$", description="CPU that each worker's pod asks for; it may use one a thread."
    )
    scheduler_memory: str = Field(
        "1GiB", pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$", description="Memory of the scheduler's pod, and of the job's."
    )
    node_selector: dict[str, str] = Field({}, description="Labels of the nodes that workers run on.")
    tolerations: list[dict[str, Any]] = Field([], description="Taints of nodes that workers accept, as in a pod.")
    volumes: dict[str, dict[str, Any]] = Field(
        {},
        description="Path: what stands there in every pod, as in a pod: {persistentVolumeClaim: {claimName: prices}}.",
    )
    secrets: list[str] = Field([], description="Secrets whose entries are environment variables in every pod.")
    env: dict[str, str] = Field({}, description="Environment variables in every pod.")
    start_timeout: int = Field(
        300, ge=1, description="Seconds until pods must run: images pulled, nodes found, a worker connected."
    )
    idle_timeout: int = Field(
        600,
        ge=1,
        description="Seconds without work after which a cluster goes whose driver died (driver on this machine).",
    )
    deadline: int = Field(86_400, ge=1, description="Seconds that a submitted run may take.")
    service_account: str = Field("pipelines-run", description="Of all pods; none gets its token.")
    priority: bool = Field(True, description="Whether pods have the priority classes that `make deploy` makes.")


class ExecutorOptions(BaseModel):
    """The `executor:` block: where a pipeline runs when the command line does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    kind: Literal["serial", "threads", "processes", "local", "address", "kubernetes"] = Field(
        "local", description="Where to run."
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="processes, local: worker processes. Default: one a core; local without Python steps: one in all. kubernetes: worker pods; default 2.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Threads (processes, local, kubernetes: of each worker). Default: all cores, shared out; kubernetes: 1.",
    )
    memory_limit: str | None = Field(
        None,
        pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$",
        description="processes, local: of each worker, as 2GiB. kubernetes: of each worker's pod; default 2GiB. serial, threads: of the process; exchanges use a quarter, then files.",
    )
    scratch: str | None = Field(
        None,
        description="The folder for rows on their way between stages, where memory does not hold them. Default: runs/.exchanges.",
    )
    address: str | None = Field(
        None, pattern=r"^[a-z]+://.", description="address: of a running Dask scheduler, as tcp://host:8786."
    )
    dashboard_port: int = Field(
        8787, ge=0, le=65535, description="local, kubernetes: the dashboard's port here; another one if it is taken."
    )
    kubernetes: KubernetesOptions = Field(KubernetesOptions(), description="kubernetes: image, namespace, volumes, ...")


class StoreOptions(BaseModel):
    """The `store:` block: where `checkpoint: disk` keeps tables."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    url: str = Field(min_length=1, description="A folder, relative to the project, or a URL as s3://bucket/folder.")
    options: dict[str, Any] = Field(
        {},
        description="For the file system (fsspec), as `endpoint_url`. Default: the environment, as AWS_ACCESS_KEY_ID.",
    )

    @field_validator("url")
    @classmethod
    def _is_clear(cls, url: str) -> str:
        if not url.strip() or url.startswith("~") or re.match(r"\w+:(?!//)", url):
            raise ValueError("a folder, or a URL with //")
        protocol, found, path = url.partition("://")
        if not found:
            return url
        if protocol == "file":
            if not path.startswith("/"):
                raise ValueError("file:/// and an absolute path, or a folder without file://")
        elif protocol in ("memory", "local"):
            raise ValueError("a folder, or a URL of what other processes see too")
        else:
            import fsspec

            if protocol not in (known := fsspec.available_protocols()):
                near = did_you_mean(protocol, known)
                more = f" ({near})" if near.startswith("did") else ""
                raise ValueError(f"a folder, or a URL of a known protocol{more}")
        return url


class StepSpec(Struct, frozen=True):
    name: str
    step: Step
    inputs: tuple[str, ...]
    checkpoint: Checkpoint | None
    retries: int
    timeout: float | None
    """Seconds."""
    options: Node
    place: Place


class Spec(Struct, frozen=True):
    name: str
    description: str
    path: Path
    root: Path
    executor: ExecutorOptions
    store: StoreOptions | None
    steps: tuple[StepSpec, ...]
    params: Mapping[str, Any]

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the project's modules are looked for: beside the config, then in the project."""
        return tuple(dict.fromkeys((self.path.resolve().parent, self.root)))


def load_spec(
    path: str | Path, params: Mapping[str, Any] | None = None, overlays: Sequence[str | Path] = ()
) -> tuple[Spec, list[Issue]]:
    """The config at `path`, with overlays put over it and `params` in place of its own, and every issue found.

    The spec has the steps without any. Raises ConfigError when there is nothing to go on with.
    """
    path = Path(path)
    tree, unknown = read_yaml(path, str(path)), list[Issue]()
    for each in overlays:
        over = read_yaml(Path(each), str(each))
        if not isinstance(over.value, dict):
            what = f"an overlay is a mapping like the config, this is {_shown(over)}"
            raise ConfigError(Issue(what, "write what changes under the same keys", over.place))
        unknown += undeclared(tree, over)
        tree = merged(tree, over)
    reader = _Reader(path, tree, params or {})
    spec = reader.spec()
    reader.issues += unknown
    if spec is None:
        raise ConfigError(*reader.issues)
    return spec, reader.issues


def project_root(config: Path) -> Path:
    """The nearest folder above the config with pyproject.toml, .git or runs/; its own folder if there is none."""
    folder = config.resolve().parent
    for parent in (folder, *folder.parents):
        if any((parent / mark).exists() for mark in ("pyproject.toml", ".git", "runs")):
            return parent
    return folder


class _Reader:
    def __init__(self, path: Path, root: Node, params: Mapping[str, Any]) -> None:
        self.path, self.root, self.given, self.issues = path, root, params, list[Issue]()

    def add(self, place: Place, message: str, remedy: str = "") -> None:
        self.issues.append(Issue(message, remedy, place))

    def spec(self) -> Spec | None:
        if not isinstance(self.root.value, dict):
            self.add(
                self.root.place,
                f"a pipeline is a mapping, this is {_shown(self.root)}",
                "start with `name: ...` and `steps:`",
            )
            return None
        top = self.root.value
        values = resolve(top.get("params"), self.given, self.issues)
        if values is None:
            return None
        doubtful = any(issue.place for issue in self.issues)
        top = {key: substitute(node, values, self.issues) for key, node in top.items() if key != "params"}
        unclear = [issue.place for issue in self.issues if issue.place]
        for key, place in self.root.keys.items():
            if key not in TOP:
                self.add(place, f"unknown key {key!r}", did_you_mean(key, TOP))
        name = self.text(top.get("name"), "name") or self.path.stem
        place = top["name"].place if "name" in top else self.root.place
        if not name.replace("-", "").replace("_", "").isalnum():
            said = "the name" if "name" in top else "the file's name gives the pipeline's:"
            self.add(place, f"{said} {name!r} is not plain", "write `name:` with letters, digits, - and _")
        elif len(name.encode()) > _LONGEST_NAME:
            said = "the name is too long: it is a part of files' names"
            self.add(place, said, f"write `name:` with at most {_LONGEST_NAME} letters")
        executor = ExecutorOptions()
        if "executor" in top:
            node = top["executor"]
            data = node.plain()
            if isinstance(data, str):
                data = {"kind": "address", "address": data} if "://" in data else {"kind": data}
            if isinstance(data, dict):
                found = self.validated(ExecutorOptions, data, node)
                executor = found or executor
                if executor.kind == "address" and executor.address is None:
                    self.add(node.place, "no address is given", "add `address: tcp://host:8786`")
                if found and "kind" in node.keys:  # else `--executor` may be meant to say it
                    self.unused(executor, node)
            else:
                self.add(
                    node.place,
                    f"`executor` is one of {', '.join(EXECUTORS)} or a mapping of options, not {_shown(node)}",
                    f"options: {', '.join(ExecutorOptions.model_fields)}",
                )
        store = None
        if "store" in top:
            data = top["store"].plain()
            data = {"url": data} if isinstance(data, str) else data
            if isinstance(data, dict):
                store = self.validated(StoreOptions, data, top["store"])
            else:
                remedy = "store: s3://bucket/folder, or {url: ..., options: {...}}"
                self.add(top["store"].place, f"`store` is a folder or a URL, not {_shown(top['store'])}", remedy)
        steps = self.steps(top.get("steps"), unclear, doubtful)
        return Spec(
            name=name,
            description=self.text(top.get("description"), "description"),
            path=self.path,
            root=project_root(self.path),
            executor=executor,
            store=store,
            steps=steps,
            params={key: node.plain() for key, node in values.items()},
        )

    def unused(self, executor: ExecutorOptions, node: Node) -> None:
        """Options that stand beside a kind that does not use them."""
        said = node.find(("kind",)).place.file
        for name, kinds in _USED_BY.items():
            place = node.find((name,)).place
            # what an overlay's kind meets in the config was meant for another
            if name in node.keys and executor.kind not in kinds and said in (place.file, self.root.place.file):
                self.add(
                    place,
                    f"`{name}` has no meaning for {executor.kind}",
                    f"remove it; it is for {', '.join(kinds)}",
                )

    def text(self, node: Node | None, key: str) -> str:
        if node is None:
            return ""
        if not isinstance(node.value, str):
            remedy = "write it on one line" if isinstance(node.value, dict | tuple) else "put it in quotes"
            remedy = "give one, or remove the key" if node.value is None else remedy
            self.add(node.place, f"`{key}` must be a text, not {_shown(node)}", remedy)
            return ""
        return node.value

    def steps(self, node: Node | None, unclear: Sequence[Place], doubtful: bool) -> tuple[StepSpec, ...]:
        """The steps without issues. unclear: where a reference failed; doubtful: a parameter's own value has issues."""
        if node is None or node.value is None:
            place = self.root.keys.get("steps", self.root.place)
            self.add(place, "there are no steps", "add `steps: {prices: {read: data/*.csv}}`")
            return ()
        if not isinstance(node.value, dict) or not node.value:
            self.add(
                node.place,
                f"`steps` is a mapping of names to steps, not {_shown(node)}",
                "write `steps: {prices: {read: data/*.csv}}`",
            )
            return ()
        gives = dict[str, Kind]()
        found = list[StepSpec]()
        starts = (*node.keys.values(), *self.root.keys.values())
        for name, body in node.value.items():
            place = node.keys[name]
            end = min((start for start in starts if start > place), default=Place(f"{place.file}~", 1, 1))
            sound = not any(place <= other < end for other in unclear)
            sound &= not (doubtful and "${" in str(self.root.find(("steps", name)).plain()))
            if not name.isidentifier():
                self.add(place, f"{name!r} cannot name a step", "use letters, digits and _, the first not a digit")
            told = len(self.issues)
            step, kept = self.step(name, body, place), self.checkpoint(body)
            retries, timeout = self.retries(body), self.timeout(body)
            if not sound:  # what failed to be put in is told already
                blind = _references(self.root.find(("steps", name)))
                self.issues[told:] = [issue for issue in self.issues[told:] if issue.place not in blind]
            kind = self.kind(body)
            gives[name] = KINDS[kind].gives if kind else "table"
            told = len(self.issues)
            given = self.inputs(name, body, place, gives, node.value)
            if sound and step is not None and kind is not None and given is not None and len(self.issues) == told:
                assert isinstance(body.value, dict)
                found.append(StepSpec(name, step, given, kept, retries, timeout, body.value[kind], place))
        return tuple(found)

    def kind(self, body: Node) -> str | None:
        if not isinstance(body.value, dict):
            return None
        kinds = [key for key in body.value if key in KINDS]
        return kinds[0] if len(kinds) == 1 else None

    def step(self, name: str, body: Node, place: Place) -> Step | None:
        if not isinstance(body.value, dict):
            words = body.value.split(":") if isinstance(body.value, str) else []
            self.add(
                body.place,
                f"the step {name!r} says nothing to do: it is {_shown(body)}, not a mapping",
                f"put a space after `{words[0]}:`"
                if len(words) > 1 and words[0] in KINDS
                else f"write `{name}: {{<kind>: <options>}}`; kinds: {', '.join(KINDS)}",
            )
            return None
        if (cut := _cut_by_comma(body)) is not None:
            self.add(cut, CUT, CUT_REMEDY)
            return None
        for key in body.value:
            if key not in KINDS and key not in COMMON:
                remedy = _NO_KIND.get(key.lower()) or did_you_mean(key, (*KINDS, *COMMON))
                self.add(body.keys[key], f"unknown key {key!r} in the step {name!r}", remedy)
        kinds = [key for key in body.value if key in KINDS]
        if not kinds:
            if all(key in COMMON for key in body.value):
                self.add(place, f"the step {name!r} has no kind", f"kinds: {', '.join(KINDS)}")
            return None
        if len(kinds) > 1:
            self.add(
                body.keys[kinds[1]], f"the step {name!r} has two kinds: {kinds[0]} and {kinds[1]}", "make it two steps"
            )
            return None
        cls, options = KINDS[kinds[0]], body.value[kinds[0]]
        self.text(body.value.get("description"), "description")
        data = options.plain()
        if not isinstance(data, dict):
            if data is None and not any(field.is_required() for field in cls.model_fields.values()):
                return self.validated(cls, {}, options)
            if cls.shorthand is None or data is None:
                wanted = "a mapping of options" if cls.shorthand is None else f"options or `{cls.shorthand}`"
                self.add(
                    options.place, f"`{cls.kind}` takes {wanted}, not {_shown(options)}", f"for example `{cls.example}`"
                )
                return None
            data = {cls.shorthand: data}
        return self.validated(cls, data, options)

    def validated(self, cls: type[M], data: dict[str, Any], node: Node) -> M | None:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            found = dict[tuple[str | int, ...], list[Any]]()
            for each in error.errors(include_url=False):  # of a union: one for each member
                path = _path(each["loc"], data)
                if each["type"] == "missing" and path[-1:] != each["loc"][-1:]:
                    path += each["loc"][-1:]
                found.setdefault(path, []).append(each)
            for path, errors in found.items():
                self.invalid(cls, path, errors, node)
            return None

    def invalid(self, cls: type[BaseModel], path: tuple[str | int, ...], found: list[Any], node: Node) -> None:
        there = node.find(path)
        option = ".".join(str(part) for part in path if isinstance(part, str))
        inner, rest = _inner(cls, path)
        example = f"for example `{cls.example}`" if issubclass(cls, Step) else ""
        known = _options(inner)
        near = nearest(str(path[-1]), known) if path and str(path[-1]) not in known else None
        extra = (
            near is not None and len(path) == 1 and cls.model_config.get("extra") == "allow"
        )  # a list is no new column
        if found[0]["type"] == "extra_forbidden" or extra:
            where = node.find(path[:-1]).keys.get(str(path[-1]), node.place)
            more = f" {known[near].description or ''}".rstrip() if near else ""
            self.add(where, f"unknown option {option!r}", did_you_mean(str(path[-1]), known) + more)
        elif found[0]["type"] == "missing":
            self.add(there.place, f"the option {option!r} is missing", example)
        else:
            field = next((_options(inner)[part] for part in map(str, rest) if part in _options(inner)), None)
            remedy = (field.description if field else None) or example
            if isinstance(there.value, str) and found[0]["type"] in ("int_type", "bool_type", "float_type"):
                remedy = _unquoted(there.value, found[0]["type"]) or remedy
            if isinstance(there.value, str) and found[0]["type"] == "literal_error":
                near = nearest(there.value, re.findall(r"'([^']*)'", found[0]["ctx"]["expected"]))
                remedy = f"did you mean {near!r}? {remedy}" if near else remedy
            what = f"an item of `{option}`" if path and isinstance(path[-1], int) else f"`{option}`" if option else "it"
            wanted = " or ".join(dict.fromkeys(map(_wanted, found)))
            empty = found[0]["type"] in ("string_too_short", "too_short") and not there.value
            self.add(
                there.place,
                f"{what} must not be empty" if empty else f"{what} must be {wanted}, not {_shown(there)}",
                remedy,
            )

    def inputs(
        self, name: str, body: Node, place: Place, gives: dict[str, Kind], all_steps: Mapping[str, Node]
    ) -> tuple[str, ...] | None:
        """The step's inputs: what `from` names, else the nearest steps above that give what it takes."""
        node = body.value.get("from") if isinstance(body.value, dict) else None
        kind = self.kind(body)
        cls = KINDS[kind] if kind else None
        above = [other for other in gives if other != name]
        if cls and cls.role == "source":
            if node is not None:
                self.add(node.place, f"`{kind}` is a source: it has no input", "remove `from`")
            return ()
        takes = cls.takes if cls else ((*KIND_WORDS,),)
        if cls and cls.several:
            tables = [other for other in above if gives[other] in takes[0]]
            given = node.value if node is not None and isinstance(node.value, tuple) else ()
            if cls.fewest == 1 and (node is None or isinstance(node.value, str)):
                given = (node,) if node is not None else ()
                if node is None and tables:
                    return (tables[-1],)
            if len(given) < cls.fewest:
                example = ", ".join((*tables, "prices", "more")[-2:] if len(tables) < 2 else tables[-2:])
                self.add(node.place if node else place, f"`{kind}` takes several steps", f"write `from: [{example}]`")
                return None
            found = [self.input(name, kind, each, takes[0], gives, all_steps) for each in given]
            return None if None in found else tuple(each for each in found if each is not None)
        if node is None:
            return self.nearest(name, cls, place, takes, gives)
        if len(takes) > 1 and isinstance(node.value, tuple):
            least = len(takes) - (cls.optional if cls else 0)
            if not least <= len(node.value) <= len(takes):
                self.add(
                    node.place, f"`{kind}` takes {_asked(cls)}", f"write `from: [{', '.join(t[0] for t in takes)}]`"
                )
                return None
            listed = zip(node.value, takes, strict=False)
            found = [self.input(name, kind, each, wanted, gives, all_steps) for each, wanted in listed]
            return None if None in found else tuple(each for each in found if each is not None)
        one = self.input(name, kind, node, takes[0], gives, all_steps)
        if one is not None and cls and len(takes) - cls.optional > 1:
            self.add(node.place, f"`{kind}` takes {_asked(cls)}", f"write `from: [{', '.join(t[0] for t in takes)}]`")
            return None
        return None if one is None else (one,)

    def nearest(
        self, name: str, cls: type[Step] | None, place: Place, takes: Sequence[Sequence[Kind]], gives: dict[str, Kind]
    ) -> tuple[str, ...] | None:
        """Of each input the nearest step above that gives it; of optional ones only the step right above."""
        found = list[str]()
        above = [other for other in gives if other != name]
        for i, wanted in enumerate(takes):
            fit = [other for other in above if gives[other] in wanted and other not in found]
            if cls and i >= len(takes) - cls.optional:
                fit = [other for other in fit if other == above[-1]]
            elif not fit:
                if cls:
                    words = " or ".join(KIND_WORDS[each] for each in wanted)
                    remedy = "start with a `read`" if "table" in wanted else "put one above it"
                    self.add(place, f"the step {name!r} has no input: no step above gives {words}", remedy)
                return None
            found += fit[-1:]
        return tuple(found)

    def input(
        self,
        name: str,
        kind: str | None,
        node: Node,
        takes: Sequence[Kind],
        gives: dict[str, Kind],
        all_steps: Mapping[str, Node],
    ) -> str | None:
        fit = [other for other in gives if other != name and gives[other] in takes]
        if not isinstance(node.value, str):
            example = f"for example `from: {fit[-1] if fit else 'prices'}`"
            self.add(node.place, f"`from` names one step, not {_shown(node)}", example)
        elif node.value == name:
            self.add(node.place, f"the step {name!r} reads from itself", "name a step above it")
        elif node.value not in gives and node.value in all_steps:
            remedy = "a step reads from steps above it: move one of them"
            self.add(node.place, f"the step {node.value!r} stands below", remedy)
        elif node.value not in gives:
            above = [other for other in gives if other != name]
            self.add(node.place, f"unknown step {node.value!r}", did_you_mean(node.value, above))
        elif gives[node.value] == "nothing":
            self.add(node.place, f"the step {node.value!r} writes and gives no table", "name the step that it writes")
        elif gives[node.value] not in takes:
            wanted = " or ".join(KIND_WORDS[each] for each in takes)
            remedy = f"steps that give {wanted}: {', '.join(fit)}" if fit else f"no step above gives {wanted}"
            what = f"the step {node.value!r} gives {KIND_WORDS[gives[node.value]]}, and `{kind}` takes {wanted}"
            self.add(node.place, what, remedy)
        else:
            return node.value
        return None

    def checkpoint(self, body: Node) -> Checkpoint | None:
        node = body.value.get("checkpoint") if isinstance(body.value, dict) else None
        if node is None:
            return None
        if node.value not in ("memory", "disk"):
            self.add(
                node.place,
                f"`checkpoint` is {_shown(node)}, not 'memory' or 'disk'",
                "write `checkpoint: memory` or `checkpoint: disk`, or remove it",
            )
        kind = self.kind(body)
        if kind and KINDS[kind].role == "sink":
            self.add(node.place, "a step that writes has nothing to keep", "remove `checkpoint`")
        return "disk" if node.value == "disk" else "memory"

    def retries(self, body: Node) -> int:
        node = body.value.get("retries") if isinstance(body.value, dict) else None
        if node is None:
            return RETRIES
        if type(node.value) is not int or not 0 <= node.value <= 100:
            self.add(node.place, f"`retries` is a whole number from 0 to 100, not {_shown(node)}", "retries: 3")
            return RETRIES
        return node.value

    def timeout(self, body: Node) -> float | None:
        node = body.value.get("timeout") if isinstance(body.value, dict) else None
        if node is None:
            return None
        text = str(node.value) if type(node.value) in (int, float, str) else ""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|d)?", text)
        if found is None or float(found[1]) == 0:
            self.add(node.place, f"`timeout` is a time, not {_shown(node)}", "timeout: 90 s; units: s, min, h, d")
            return None
        return float(found[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[found[2] or "s"]


def _asked(cls: type[Step] | None) -> str:
    """The inputs of a kind in words."""
    words = [" or ".join(KIND_WORDS[each] for each in wanted) for wanted in cls.takes] if cls else []
    first = len(words) - (cls.optional if cls else 0)
    return " and ".join(words[:first]) + "".join(f", perhaps {word}" for word in words[first:])


def _cut_by_comma(node: Node) -> Place | None:
    """Where what follows a comma inside of brackets became a key: `{x: round(y, 2)}`."""
    if isinstance(node.value, tuple):
        return next((place for each in node.value if (place := _cut_by_comma(each))), None)
    if not isinstance(node.value, dict):
        return None
    opened, start = False, None
    for key, each in node.value.items():
        if opened and each.value is None:
            start = start or node.keys[key]
            if key.count(")") > key.count("("):
                return start
        else:
            opened, start = isinstance(each.value, str) and each.value.count("(") > each.value.count(")"), None
    return next((place for each in node.value.values() if (place := _cut_by_comma(each))), None)


def _references(node: Node) -> set[Place]:
    """Where the texts stand that parameters are put into."""
    if isinstance(node.value, dict | tuple):
        inside = node.value.values() if isinstance(node.value, dict) else node.value
        return set[Place]().union(*map(_references, inside))
    return {node.place} if isinstance(node.value, str) and "${" in node.value else set()


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_too_long": "a text of one character",
}


def _options(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def _inner(cls: type[BaseModel], path: tuple[str | int, ...]) -> tuple[type[BaseModel], tuple[str | int, ...]]:
    """The model whose options the path ends in, which may stand in another's option, and the path from there."""
    start = 0
    for i, part in enumerate(path[:-1]):
        field = _options(cls).get(str(part))
        if field and (models := _models(field.annotation)):
            cls, start = models[0], i + 1
    return cls, path[start:]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Those that the type of an option is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for inner in get_args(annotation) for each in _models(inner)]


def _wanted(found: Any) -> str:
    """What an option must be, from what pydantic says of it."""
    kind, context = found["type"], found.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return "a text of the form below"
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
    if kind in ("too_short", "too_long"):
        return (
            f"a list of {context['min_length']} or more"
            if "min_length" in context
            else f"a list of at most {context['max_length']}"
        )
    said = str(found["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return str(context["expected"]).replace("None", "null") if kind == "literal_error" else _WANTED.get(kind, said)


def _shown(node: Node) -> str:
    """A value as the config's writer knows it."""
    if isinstance(node.value, dict | tuple):
        kind = "mapping" if isinstance(node.value, dict) else "list"
        return f"a {kind}" if node.value else f"an empty {kind}"
    if node.value is None:
        return "null"
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return f"{node.value:f}".replace("inf", ".inf").replace("nan", ".nan")
    return str(node.value).lower() if isinstance(node.value, bool) else f"{node.value!r:.60}"


def _unquoted(text: str, kind: str) -> str:
    plain = text in ("true", "false") if kind == "bool_type" else text.isdecimal()
    return "drop the quotes" if plain else ""


def _path(loc: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """The part of pydantic's path that stands in the data: not what names a member of a union."""
    path = list[str | int]()
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if len(path) or part == "[key]" or str(part) in ("int", "float", "str"):
                continue
        path.append(part)
    return tuple(path)
