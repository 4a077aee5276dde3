"""A run as a DaskJob: made, followed, taken home, removed. The truth is the pod of the job: its phase and its exit code."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import shutil
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipelines.dashboard import answering
from pipelines.errors import Issue, MachineError
from pipelines.files import written
from pipelines.k8s import bundle, manifests
from pipelines.k8s.api import Kube, Object
from pipelines.k8s.job import ENDED, PORT
from pipelines.k8s.manifests import Setting
from pipelines.k8s.watch import State, Watch, is_ready, left, remove
from pipelines.spec import Spec
from pipelines.versions import versions

Say = Callable[[str], None]
_LOOK_SECONDS = 2.0
_CODES = (0, 2, 3, 4, 130)
_COMMAND = ("python", "-m", "pipelines.k8s.job")


def made(spec: Spec, overlays: Sequence[Path], params: Sequence[str]) -> tuple[Setting, list[Object], bytes]:
    """The manifests of a run, and its archive. Raises ConfigError."""
    setting = Setting(manifests.new_name(spec.name), spec.executor, spec.root)
    archive = bundle.packed(spec, overlays, params, versions())
    content = base64.b64encode(archive).decode()
    return setting, [manifests.archive(setting, content), manifests.job(setting, _COMMAND, env={})], archive


def submit(kube: Kube, setting: Setting, objects: Sequence[Object]) -> None:
    """Makes the objects; when one is refused, none is left."""
    done = list[Object]()
    try:
        for each in objects:
            done.append(kube.create(each))
        config, job = done
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": setting.name,
            "uid": job["metadata"]["uid"],
        }
        kube.patch("ConfigMap", config["metadata"]["name"], {"metadata": {"ownerReferences": [owner]}})
    except BaseException:
        remove(kube, setting.name)
        raise


def follow(
    kube: Kube, name: str, *, start_timeout: float, say: Say, note: Say = lambda text: None, root: Path | None = None
) -> int:
    """Shows what the run says until it ended; what it made comes home. Returns its exit code.

    root: where the project stands here. Raises MachineError when its pods fail, with what they say.
    """
    job = kube.get("DaskJob", name)
    if job is None:
        raise MachineError(Issue(f"there is no run {name} in the namespace {kube.namespace}", "pipelines k8s status lists them"))  # fmt: skip
    watch = Watch(kube, name, start_timeout=start_timeout)
    watch.until(lambda state: bool(_phase(state)), "the job's pod did not start")
    lines, home, starved = list[str](), list[Path](), set[str]()
    with ExitStack() as stack:
        shown = _Dashboard(kube, note)
        stack.callback(shown.close)
        lost = 0
        while True:
            with kube.following(f"{name}-runner") as said:
                skip, looked = len(lines), 0.0
                while True:
                    try:
                        line = said.get(timeout=0.5)
                    except queue.Empty:
                        line = ""
                    else:
                        if line is None:
                            break
                        if skip:
                            skip -= 1
                        else:
                            lines.append(line)
                            if line.startswith(ENDED):
                                home += _taken(kube, name, root)
                            else:
                                say(line)
                    if time.monotonic() - looked > _LOOK_SECONDS:
                        state, looked = watch.check(), time.monotonic()
                        starved |= state.oom_killed()
                        shown.open(state)
                        if _phase(state) in ("Succeeded", "Failed") and said.empty() and not line:
                            break
            state = watch.state()
            if _phase(state) in ("Succeeded", "Failed", ""):
                break
            lost += 1  # the log's connection ended, the pod did not
            time.sleep(min(lost, 5))
        code = _code(watch, state, name)
    if code and starved:  # the driver may not ask for pods
        note(f"OOMKilled, for want of memory: {', '.join(sorted(starved))}")
    if home:
        (home[0] / "log.txt").write_text("\n".join(lines) + "\n")
        note(f"record, results and log: {', '.join(map(str, home))}")
    return code


def _phase(state: State) -> str:
    """Of the job's pod; empty before it ran."""
    for pod in state.of("job-runner"):
        phase = str(pod["status"].get("phase"))
        return "" if phase == "Pending" else phase
    return ""


def _code(watch: Watch, state: State, name: str) -> int:
    """The exit code of the job's pod. Raises MachineError when the run did not end by itself."""
    pods = state.of("job-runner")
    if not pods:
        raise watch.failed(
            state, Issue(f"the pod of the run {name} is gone: it was deleted, or its node was", "run again")
        )
    status = pods[0]["status"]
    if status.get("reason") == "DeadlineExceeded":
        raise watch.failed(state, Issue(f"the run {name} took longer than its deadline: {status.get('message', '')}", "raise executor.kubernetes.deadline"))  # fmt: skip
    for each in status.get("containerStatuses", ()):
        ended = each["state"].get("terminated") or {}
        if ended.get("exitCode") in _CODES and ended.get("reason") in ("Completed", "Error"):
            return int(ended["exitCode"])
        if ended:
            raise watch.failed(state, Issue(f"the pod of the run {name} ended with exit code {ended.get('exitCode')} ({ended.get('reason')})", f"pipelines k8s logs {name}"))  # fmt: skip
    raise watch.failed(state, Issue(f"the pod of the run {name} failed: {status.get('reason')}: {status.get('message', '')}", "run again"))  # fmt: skip


def _taken(kube: Kube, name: str, root: Path | None) -> list[Path]:
    """What the run made, laid out in the project here; files appear under their names when they are complete."""
    pod = kube.get("Pod", f"{name}-runner")
    if pod is None:
        return []
    found = list[Path]()
    with kube.forwarded(pod, PORT) as port, tempfile.TemporaryFile() as packed:
        url = f"http://127.0.0.1:{port}/"
        _fetched(url, packed)
        root = root or Path.cwd()
        with tarfile.open(fileobj=packed) as archive:
            for entry in archive:
                path = root / entry.name
                if ".." in path.parts or not path.is_relative_to(root):
                    raise MachineError(Issue(f"{entry.name} does not belong into {root}", "is this pod yours?"))
                if entry.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    if path.parent == root / "runs":
                        found.append(path)
                elif (source := archive.extractfile(entry)) is not None:
                    with written(str(path)) as file:
                        shutil.copyfileobj(source, file)
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()
    return found


def _fetched(url: str, packed: Any) -> None:
    for attempt in range(5):
        packed.seek(0)
        packed.truncate()
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                shutil.copyfileobj(answer, packed)
                if packed.tell() == int(answer.headers["Content-Length"]):
                    packed.seek(0)
                    return
        except OSError as error:
            if attempt == 4:
                raise MachineError(Issue(f"the results did not come: {error}", "pipelines k8s logs --follow tries again")) from None  # fmt: skip
        time.sleep(1)


class _Dashboard:
    """The dashboard's link, told once it answers."""

    def __init__(self, kube: Kube, note: Say) -> None:
        self.kube, self.note, self.stack, self.tried = kube, note, ExitStack(), False

    def open(self, state: State) -> None:
        pods = [pod for pod in state.of("scheduler") if is_ready(pod)]
        if self.tried or not pods:
            return
        self.tried = True
        port = self.stack.enter_context(self.kube.forwarded(pods[0], 8787))
        if link := answering(f"http://127.0.0.1:{port}/status", 3):
            self.note(f"dashboard: {link}")

    def close(self) -> None:
        self.stack.close()


def status(kube: Kube, name: str | None) -> list[str]:
    """The runs, or the pods of one and what was told of them, as lines."""
    if name is None:
        found = [f"{'run':40} {'state':12} began"]
        jobs = kube.all("DaskJob", {"app.kubernetes.io/part-of": "pipelines"})
        for job in sorted(jobs, key=lambda job: job["metadata"]["creationTimestamp"]):
            found.append(f"{job['metadata']['name']:40} {_state(kube, job):12} {job['metadata']['creationTimestamp']}")
        return found if len(found) > 1 else [f"no runs in the namespace {kube.namespace}"]
    if not left(kube, name):
        raise MachineError(Issue(f"there is no run {name} in the namespace {kube.namespace}", "pipelines k8s status lists them"))  # fmt: skip
    state = Watch(kube, name, start_timeout=0).state()
    lines = [f"{'pod':60} {'phase':10} {'ready':5} restarts"]
    for pod in state.pods:
        restarts = sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))
        lines.append(
            f"{pod['metadata']['name']:60} {pod['status']['phase']:10} {'yes' if is_ready(pod) else 'no':5} {restarts}"
        )
        for each in pod["status"].get("containerStatuses", ()):
            if message := (each["state"].get("terminated") or {}).get("message"):
                with contextlib.suppress(ValueError):
                    lines.append(f"  ended with exit code {json.loads(message)['exit_code']}")
    if issue := state.fatal() or state.starved():
        lines.append(f"error: {issue}")
    return [*lines, *(f"event: {each}" for each in state.told())]


def _state(kube: Kube, job: Object) -> str:
    pod = kube.get("Pod", f"{job['metadata']['name']}-runner")
    return str(pod["status"]["phase"]) if pod else "Waiting"


def finished(kube: Kube) -> list[str]:
    """Runs whose pod has ended."""
    jobs = kube.all("DaskJob", {"app.kubernetes.io/part-of": "pipelines"})
    return [job["metadata"]["name"] for job in jobs if _state(kube, job) in ("Succeeded", "Failed")]
