"""`pipelines k8s doctor`: what would keep a run from working, found before a run is, each with what to do.

What can be asked is asked; the rest is tried by a run of nothing: a DaskJob whose pod looks around and ends. It shows that the operator
acts, that the image is pulled and has the same versions, that names resolve, and that volumes have the data.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from msgspec.structs import replace

from pipelines.errors import Issue, MachineError, PipelineError, redacted
from pipelines.k8s import bundle, manifests
from pipelines.k8s.api import Kube
from pipelines.k8s.manifests import Setting
from pipelines.k8s.reach import covered, travelling
from pipelines.k8s.submit import follow, submit
from pipelines.k8s.watch import remove
from pipelines.spec import Spec
from pipelines.versions import versions

Say = Callable[[str], None]
NEEDED = (
    ("kubernetes.dask.org", "daskclusters", ("get", "list", "create", "delete")),
    ("kubernetes.dask.org", "daskjobs", ("get", "list", "create", "delete")),
    ("kubernetes.dask.org", "daskworkergroups", ("list",)),
    ("", "configmaps", ("list", "create", "patch", "delete")),
    ("", "pods", ("get", "list", "delete")),
    ("", "services", ("list",)),
    ("", "events", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "pods/portforward", ("get", "create")),
)
"""(API group, resource, verbs) that who launches runs needs: what the Role pipelines-launcher gives."""


def report(spec: Spec, say: Say) -> int:
    """Says what it finds, check by check; 0 when all is well, 4 when not."""
    bad = 0
    with ExitStack() as stack:
        for name, check in _checks(spec, stack):
            try:
                said = check()
            except PipelineError as error:
                bad += 1
                for issue in error.issues:
                    say(f"no    {name}: {issue}")
                for note in error.notes:
                    say(f"      {note}")
                if name in ("context", "definitions", "rights"):
                    say("      what follows needs this")
                    break
            else:
                say(f"ok    {name}: {said}")
    say("all is well" if not bad else f"{bad} of the checks failed")
    return 4 if bad else 0


def _checks(spec: Spec, stack: ExitStack) -> Iterator[tuple[str, Callable[[], str]]]:
    options = spec.executor.kubernetes
    connection = Kube(options.context, options.namespace)

    def context() -> str:
        kube = stack.enter_context(connection)
        kube.may("get", "", "pods")
        return f"{kube.server}, namespace {kube.namespace}"

    def definitions() -> str:
        for kind in ("DaskCluster", "DaskJob", "DaskWorkerGroup", "DaskAutoscaler"):
            try:
                connection.all(kind)
            except MachineError as error:
                if getattr(error, "status", 0) != 403:  # who may not look does not see whether they are there
                    raise
        return "DaskCluster, DaskJob, DaskWorkerGroup and DaskAutoscaler are known"

    def rights() -> str:
        missing = [
            f"{verb} {resource}"
            for group, resource, verbs in NEEDED
            for verb in verbs
            if not connection.may(verb, group, resource)
        ]
        if missing:
            what = f"in the namespace {connection.namespace} you may not: {', '.join(missing)}"
            raise MachineError(Issue(what, "bind the Role pipelines-launcher to you: kubectl create rolebinding"))
        return f"all {sum(len(verbs) for _, _, verbs in NEEDED)} verbs"

    def data() -> str:
        files = travelling(spec)
        mounts = [pattern for step in spec.steps for pattern in step.step.patterns() if covered(pattern, spec)]
        return f"{len(files)} files travel, {len(mounts)} paths are on volumes or in object storage"

    def tried() -> str:
        return _tried(connection, spec)

    yield "context", context
    yield "definitions", definitions
    yield "rights", rights
    yield "data", data
    yield "operator, image, versions, names, volumes", tried


def _tried(kube: Kube, spec: Spec) -> str:
    """A run of nothing. Raises MachineError with the first thing that fails."""
    limits = {"start_timeout": min(spec.executor.kubernetes.start_timeout, 120), "deadline": 300}
    options = spec.executor.model_copy(update={"kubernetes": spec.executor.kubernetes.model_copy(update=limits)})
    setting = Setting(manifests.new_name("doctor"), options, spec.root)
    wanted = [pattern for step in spec.steps for pattern in step.step.patterns() if covered(pattern, spec)]
    asked: dict[str, Any] = {"root": str(spec.root), "versions": versions(), "paths": wanted}
    if any(step.checkpoint == "disk" for step in spec.steps):
        given = {} if spec.store is None else spec.store.options
        # a manifest can be read by more people than a secret
        open_ = redacted(json.dumps(given)) == json.dumps(given)
        asked["store"] = [spec.store.url if spec.store else "runs/.store", given if open_ else {}]
    job = manifests.job(
        setting, ("python", "-m", "pipelines.k8s.probe"), env={"PIPELINES_ASKED": json.dumps(asked)}, workers=0
    )
    archive = manifests.archive(setting, base64.b64encode(bundle.packed(replace(spec, steps=()), [], [], {})).decode())
    lines = list[str]()
    try:
        submit(kube, setting, [archive, job])
        code = follow(kube, setting.name, start_timeout=limits["start_timeout"], say=lines.append)
    finally:
        with contextlib.suppress(MachineError):
            remove(kube, setting.name)
    found = [json.loads(line) for line in lines if line.startswith("{")]
    wrong = [Issue(each["wrong"], each["remedy"]) for each in found if "wrong" in each]
    if wrong or code:
        raise MachineError(
            *(wrong or [Issue(f"the probe ended with exit code {code}: {' '.join(lines[-3:])}", "kubectl logs")])
        )
    return "; ".join(each["fine"] for each in found)
