"""A config file → a validated spec: parameters put in, options typed, inputs named. All mistakes at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ConfigError, Issue, Place, did_you_mean
from pipelines.source import Node, parse_yaml, read_yaml, substitute
from pipelines.steps import KINDS
from pipelines.steps.base import Step

M = TypeVar("M", bound=BaseModel)
TOP = ("name", "description", "params", "executor", "steps")
COMMON = ("from", "checkpoint", "description")
EXECUTORS = ("serial", "threads", "local")


class ExecutorOptions(BaseModel):
    """The `executor:` block: where a pipeline runs when the command line does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["serial", "threads", "local"] = Field("local", description="Where to run.")
    workers: int | None = Field(
        None, ge=1, description="local: worker processes. Default: one, or one a core for Python steps."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads (local: of each worker). Default: all cores, shared out."
    )
    memory_limit: str | None = Field(
        None, pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$", description="local: of each worker, as 2GiB."
    )
    dashboard_port: int = Field(
        8787, ge=0, le=65535, description="local: the dashboard's port; another one if it is taken."
    )


@dataclass(frozen=True)
class StepSpec:
    name: str
    step: Step
    input: str | None
    checkpoint: bool
    options: Node
    place: Place


@dataclass(frozen=True)
class Spec:
    name: str
    description: str
    path: Path
    root: Path
    executor: ExecutorOptions
    steps: tuple[StepSpec, ...]
    params: Mapping[str, Any]


def load_spec(path: str | Path, params: Mapping[str, Any] | None = None) -> Spec:
    """The config at `path` with `params` in place of its own. Raises ConfigError with every issue found."""
    path = Path(path)
    reader = _Reader(path, read_yaml(path, str(path)), params or {})
    spec = reader.spec()
    if spec is None or reader.issues:
        raise ConfigError(*sorted(reader.issues, key=lambda issue: (issue.place is None, issue.place)))
    return spec


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
            self.add(self.root.place, "a pipeline is a mapping", "start with `name:` and `steps:`")
            return None
        for key, place in self.root.keys.items():
            if key not in TOP:
                self.add(place, f"unknown key {key!r}", did_you_mean(key, TOP))
        top = self.root.value
        values = self.params(top.get("params"))
        top = {key: substitute(node, values, self.issues) for key, node in top.items() if key != "params"}
        name = self.text(top.get("name"), "name") or self.path.stem
        if not name.replace("-", "").replace("_", "").isalnum():
            self.add(top["name"].place, f"the name {name!r} is not plain", "use letters, digits, - and _")
        executor = ExecutorOptions()
        if "executor" in top:
            node = top["executor"]
            data = {"kind": node.plain()} if isinstance(node.value, str) else node.plain()
            executor = self.validated(ExecutorOptions, data, node) or executor
        steps = self.steps(top.get("steps"))
        return Spec(
            name=name,
            description=self.text(top.get("description"), "description"),
            path=self.path,
            root=project_root(self.path),
            executor=executor,
            steps=steps,
            params={key: node.plain() for key, node in values.items()},
        )

    def text(self, node: Node | None, key: str) -> str:
        if node is None:
            return ""
        if not isinstance(node.value, str):
            self.add(node.place, f"`{key}` must be a text", "put it in quotes")
            return ""
        return node.value

    def params(self, node: Node | None) -> dict[str, Node]:
        declared = dict[str, Node]()
        if node is not None and node.value is not None:
            if not isinstance(node.value, dict):
                self.add(node.place, "`params` is a mapping", "write `params: {name: value}`")
            else:
                declared = dict(node.value)
        values = dict[str, Node]()
        for name, value in declared.items():
            values[name] = value if name in self.given else substitute(value, values, self.issues)
        for name, given in self.given.items():
            place = Place(f"-p {name}", 1, 1)
            if name not in declared:
                self.issues.append(
                    Issue(
                        f"-p {name}: unknown parameter {name!r}",
                        did_you_mean(name, declared) or "the config declares none",
                    )
                )
            try:
                values[name] = (
                    parse_yaml(given, f"-p {name}") if isinstance(given, str) and given else _node(given, place)
                )
            except ConfigError:
                values[name] = Node(given, place)
        return values

    def steps(self, node: Node | None) -> tuple[StepSpec, ...]:
        if node is None:
            self.add(self.root.place, "there are no steps", "add `steps:` with at least a `read`")
            return ()
        if not isinstance(node.value, dict) or not node.value:
            self.add(
                node.place, "`steps` is a mapping of names to steps", "write `steps: {prices: {read: data/*.csv}}`"
            )
            return ()
        roles = dict[str, str]()
        found = list[StepSpec]()
        for name, body in node.value.items():
            place = node.keys[name]
            if not name.isidentifier():
                self.add(place, f"{name!r} cannot name a step", "use letters, digits and _, not starting with a digit")
            step = self.step(name, body, place)
            kind = self.kind(body)
            roles[name] = KINDS[kind].role if kind else "table"
            given = self.input(name, body, place, roles, node.value)
            if step is not None and kind is not None:
                assert isinstance(body.value, dict)
                found.append(StepSpec(name, step, given, self.checkpoint(body), body.value[kind], place))
        return tuple(found)

    def kind(self, body: Node) -> str | None:
        if not isinstance(body.value, dict):
            return None
        kinds = [key for key in body.value if key in KINDS]
        return kinds[0] if len(kinds) == 1 else None

    def step(self, name: str, body: Node, place: Place) -> Step | None:
        if not isinstance(body.value, dict):
            self.add(
                body.place,
                f"the step {name!r} says nothing to do",
                f"write `{name}: {{<kind>: <options>}}`; kinds: {', '.join(KINDS)}",
            )
            return None
        for key in body.value:
            if key not in KINDS and key not in COMMON:
                self.add(
                    body.keys[key], f"unknown key {key!r} in the step {name!r}", did_you_mean(key, (*KINDS, *COMMON))
                )
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
            if cls.shorthand is None:
                self.add(options.place, f"`{cls.kind}` takes a mapping of options", f"for example `{cls.example}`")
                return None
            data = {cls.shorthand: data}
        return self.validated(cls, data, options)

    def validated(self, cls: type[M], data: Any, node: Node) -> M | None:
        if not isinstance(data, dict):
            self.add(node.place, "this is a mapping of options", f"options: {', '.join(cls.model_fields)}")
            return None
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            for found in error.errors(include_url=False):
                self.invalid(cls, found, node)
            return None

    def invalid(self, cls: type[BaseModel], found: Any, node: Node) -> None:
        path = tuple(
            part
            for part in found["loc"]
            if part not in ("int", "float", "str") and not str(part).startswith(("dict[", "list["))
        )
        there = node.find(path)
        option = ".".join(str(part) for part in path if isinstance(part, str))
        fields = cls.model_fields
        if found["type"] == "extra_forbidden":
            parent = node.find(path[:-1])
            self.add(
                parent.keys.get(str(path[-1]), parent.place),
                f"unknown option {path[-1]!r}",
                did_you_mean(str(path[-1]), fields),
            )
        elif found["type"] == "missing":
            example = getattr(cls, "example", "")
            self.add(node.place, f"the option {option!r} is missing", f"for example `{example}`" if example else "")
        else:
            said = found["msg"].removeprefix("Input ").removeprefix("Value error, ")
            given = there.value if not isinstance(there.value, dict | tuple) else "this"
            if isinstance(given, bool):
                given = str(given).lower()
            top = fields.get(str(path[0])) if path else None
            what = f"`{option}`" if option else "this"
            remedy = (
                (top.description or "") if top else (f"for example `{cls.example}`" if issubclass(cls, Step) else "")
            )
            if there.place != node.place or option:
                issue = Issue(
                    f"{what}: {said[:1].lower()}{said[1:]}, not {given!r}"
                    if "should be" in said
                    else f"{what}: {said}",
                    remedy,
                    there.place,
                )
            else:
                issue = Issue(said, remedy, node.place)
            if all(known.place != issue.place for known in self.issues):  # a union says it once for each member
                self.issues.append(issue)

    def input(
        self, name: str, body: Node, place: Place, roles: dict[str, str], all_steps: Mapping[str, Node]
    ) -> str | None:
        """The step's input: what `from` names, else the nearest step above that gives a table."""
        above = [other for other in roles if other != name]
        node = body.value.get("from") if isinstance(body.value, dict) else None
        if roles[name] == "source":
            if node is not None and self.kind(body):
                self.add(node.place, f"`{self.kind(body)}` is a source: it has no input", "remove `from`")
            return None
        if node is None:
            tables = [other for other in above if roles[other] != "sink"]
            if not tables and self.kind(body):
                self.add(place, f"the step {name!r} has no input: no step above gives a table", "start with a `read`")
            return tables[-1] if tables else None
        if not isinstance(node.value, str):
            self.add(node.place, "`from` names one step", f"for example `from: {above[-1] if above else 'prices'}`")
            return None
        if node.value not in above:
            if node.value in all_steps:
                self.add(
                    node.place,
                    f"the step {node.value!r} stands below",
                    "a step reads from steps above it: move one of them",
                )
            else:
                self.add(node.place, f"unknown step {node.value!r}", did_you_mean(node.value, above))
            return None
        if roles[node.value] == "sink":
            self.add(node.place, f"the step {node.value!r} writes and gives no table", "name the step that it writes")
            return None
        return node.value

    def checkpoint(self, body: Node) -> bool:
        node = body.value.get("checkpoint") if isinstance(body.value, dict) else None
        if node is None:
            return False
        if node.value != "memory":
            self.add(node.place, f"`checkpoint` is {node.value!r}", "`memory` is the one kind of checkpoint there is")
        kind = self.kind(body)
        if kind and KINDS[kind].role == "sink":
            self.add(node.place, "a step that writes has nothing to keep", "remove `checkpoint`")
        return True


def _node(value: Any, place: Place) -> Node:
    if isinstance(value, Mapping):
        return Node({k: _node(v, place) for k, v in value.items()}, place, dict.fromkeys(value, place))
    if isinstance(value, list | tuple):
        return Node(tuple(_node(v, place) for v in value), place)
    return Node(value, place)
