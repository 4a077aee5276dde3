"""What of a pipeline pods can reach: volumes and object storage as they are, small files of the project by travelling."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipelines.errors import ConfigError, Issue, Place
from pipelines.k8s.manifests import mountable
from pipelines.spec import Spec
from pipelines.types import size_text

TRAVELS = 16 << 20
"""Bytes of input that travel with a run: every worker gets all of it."""


def covered(path: str, spec: Spec) -> bool:
    """Whether a path leads to a volume that all pods have, or to object storage."""
    if "://" in path:
        return True
    whole = PurePosixPath(spec.root, path)
    return any(whole.is_relative_to(mount) for mount in spec.executor.kubernetes.volumes)


def planned_here(spec: Spec) -> bool:
    """Whether this machine has all of the input: a volume may be in the cluster only."""
    patterns = (pattern for step in spec.steps for pattern in step.step.patterns())
    return all("://" in each or not covered(each, spec) or _is_here(each, spec.root) for each in patterns)


def _is_here(pattern: str, root: Path) -> bool:
    return any(glob.iglob(str(root / pattern), recursive=True))


def travelling(spec: Spec) -> list[Path]:
    """The files that have to travel. Raises ConfigError with a place for each path that pods cannot reach."""
    issues, found = list[Issue](), dict[Path, Place]()
    if issue := mountable(spec.root):
        issues.append(issue)
    for step in spec.steps:
        for pattern in step.step.patterns():
            if covered(pattern, spec):
                continue
            try:
                files = step.step.matching(spec.root, pattern)
            except ConfigError as error:
                issues += [Issue(issue.message, issue.remedy, step.place) for issue in error.issues]
                continue
            for file in map(Path, files):
                if file.is_relative_to(spec.root):
                    found[file] = step.place
                else:
                    issues.append(Issue(f"{file} is outside of the project: Kubernetes' workers do not see it", _mount(file.parent), step.place))  # fmt: skip
        if step.step.notes_rows and not covered("runs", spec):
            what = f"the step {step.name!r} notes bad rows in the run's folder, which Kubernetes' workers do not see"
            issues.append(Issue(what, _mount(spec.root / "runs"), step.place))
    store = spec.store.url if spec.store else "runs/.store"
    if not covered(store, spec):
        for step in spec.steps:
            if step.checkpoint == "disk":
                what = f"the step {step.name!r} is kept in the store {store}, which Kubernetes' workers do not see"
                issues.append(Issue(what, f"`store: s3://bucket/folder`, or {_mount(spec.root / store)}", step.place))
    issues += _too_large(found, spec)
    if issues:
        raise ConfigError(*dict.fromkeys(issues))
    return list(found)


def _too_large(found: dict[Path, Place], spec: Spec) -> Iterator[Issue]:
    sizes = {file: file.stat().st_size for file in found}
    if sum(sizes.values()) > TRAVELS:
        largest = max(sizes, key=lambda file: sizes[file])
        shown = f"{largest.relative_to(spec.root)} ({size_text(sizes[largest])})"
        what = f"the input has {size_text(sum(sizes.values()))}, more than travels to Kubernetes ({size_text(TRAVELS)}): {shown}"
        yield Issue(what, _mount(largest.parent), found[largest])


def _mount(folder: Path) -> str:
    return f"mount it in all pods: `executor: {{kubernetes: {{volumes: {{{folder}: {{persistentVolumeClaim: {{claimName: NAME}}}}}}}}}}`"
