"""`pipelines k8s ...`: what each command takes, and does."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, Issue, MachineError, redacted
from pipelines.spec import Spec

COMMANDS = ("doctor", "render", "submit", "status", "logs", "dashboard", "cancel", "cleanup")
Load = Callable[[argparse.Namespace], Any]
"""Gives the Pipeline that the arguments name."""


def add(command: Callable[[str, Any, str, str], Any], config: Callable[[Any], None], load: Load) -> None:
    """Adds the commands. `command` makes one of a name, a call, a text and an example; `config` adds CONFIG and what goes with it."""

    def made(name: str, call: Callable[..., int | None], text: str, example: str, *, takes: str) -> Any:
        parser = command(
            name, lambda options: call(options, load) if takes == "config" else call(options), text, example
        )
        if takes == "config":
            config(parser)
            parser.add_argument("--image", help="the image of all pods (executor.kubernetes.image)")
        if takes == "run":
            parser.add_argument("run", metavar="RUN", help="its id, as `submit` prints it and `status` lists it")
        parser.add_argument("--namespace", help="default: the config's, else the context's")
        parser.add_argument("--context", help="of the kubeconfig; default: the config's, else the current one")
        return parser

    made("doctor", _doctor, "look for what would keep a run from working, each with what to do", "pipelines k8s doctor configs/stock_groupby.yaml", takes="config")  # fmt: skip
    render = made("render", _render, "print the manifests of a run, to review", "pipelines k8s render configs/stock_groupby.yaml", takes="config")  # fmt: skip
    render.add_argument(
        "--archive", action="store_true", help="with the archive that travels, not only its list of files"
    )
    submit = made("submit", _submit, "start a run that is driven in the cluster, and print its id", "pipelines k8s submit configs/stock_groupby.yaml --wait", takes="config")  # fmt: skip
    submit.add_argument("--wait", action="store_true", help="show what it says, take results home, remove it, end with its exit code")  # fmt: skip
    status = made("status", _status, "list runs, or the pods of one and what happened to them", "pipelines k8s status", takes="")  # fmt: skip
    status.add_argument("run", metavar="RUN", nargs="?", help="its id")
    logs = made("logs", _logs, "print what a run said", "pipelines k8s logs RUN --follow", takes="run")
    logs.add_argument(
        "--follow", action="store_true", help="until it ends; takes results home, ends with its exit code"
    )
    dashboard = made("dashboard", _dashboard, "bring the dashboard of a run to this machine, until Ctrl-C", "pipelines k8s dashboard RUN", takes="run")  # fmt: skip
    dashboard.add_argument("--port", type=int, default=8787, help="here; 0 for any (default: 8787)")
    made("cancel", _cancel, "stop a run and remove it", "pipelines k8s cancel RUN", takes="run")
    cleanup = made(
        "cleanup", _cleanup, "remove runs that have ended, with their logs", "pipelines k8s cleanup", takes=""
    )
    cleanup.add_argument("run", metavar="RUN", nargs="?", help="only this one, whatever its state")


def _say(text: str) -> None:
    print(redacted(text), flush=True)


def _note(text: str) -> None:
    print(redacted(text), file=sys.stderr, flush=True)


def _overridden(spec: Spec, options: argparse.Namespace) -> Spec:
    """With what the command line says of image, namespace and context."""
    from msgspec.structs import replace

    given = {name: getattr(options, name) for name in ("image", "namespace", "context") if getattr(options, name)}
    kubernetes = spec.executor.kubernetes.model_copy(update=given)
    return replace(spec, executor=spec.executor.model_copy(update={"kind": "kubernetes", "kubernetes": kubernetes}))


def _doctor(options: argparse.Namespace, load: Load) -> int:
    from pipelines.k8s import doctor

    return doctor.report(_overridden(load(options).spec, options), _say)


def _made(options: argparse.Namespace, load: Load) -> Any:
    from pipelines.k8s import submit
    from pipelines.k8s.reach import planned_here

    pipeline = load(options)
    spec = _overridden(pipeline.spec, options)
    if planned_here(spec):  # else the data is only there: so is the plan
        pipeline.plan()
    return spec, *submit.made(spec, [Path(each) for each in options.overlays], options.params)


def _render(options: argparse.Namespace, load: Load) -> None:
    import yaml

    from pipelines.k8s.bundle import listed

    _, _, (config, job), archive = _made(options, load)
    if not options.archive:
        print("# the archive that travels (--archive shows it):")
        for name in listed(archive):
            print(f"#   {name}")
        config = {**config, "binaryData": {}}
    print(yaml.safe_dump_all([job, config], sort_keys=False), end="")


def _submit(options: argparse.Namespace, load: Load) -> int | None:
    from pipelines.k8s import submit
    from pipelines.k8s.api import Kube
    from pipelines.k8s.watch import remove

    spec, setting, objects, _ = _made(options, load)
    settings = spec.executor.kubernetes
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is removed
    with Kube(settings.context, settings.namespace) as kube:
        submit.submit(kube, setting, objects)
        if not options.wait:
            print(setting.name)
            _note(f"what it says and makes: pipelines k8s logs {setting.name} --follow --namespace {kube.namespace}")
            return None
        try:
            _note(f"submitted {setting.name} to {kube.server}, namespace {kube.namespace}")
            return submit.follow(
                kube, setting.name, start_timeout=settings.start_timeout, say=_say, note=_note, root=spec.root
            )
        finally:  # after Ctrl-C too: nothing is there when the prompt returns
            remove(kube, setting.name)


def _connected(options: argparse.Namespace) -> Any:
    from pipelines.k8s.api import Kube

    return Kube(options.context, options.namespace)


def _status(options: argparse.Namespace) -> None:
    from pipelines.k8s import submit

    with _connected(options) as kube:
        for line in submit.status(kube, options.run):
            _say(line)


def _logs(options: argparse.Namespace) -> int | None:
    from pipelines.k8s import submit

    with _connected(options) as kube:
        if options.follow:
            return submit.follow(kube, options.run, start_timeout=300, say=_say, note=_note)
        if kube.get("Pod", f"{options.run}-runner") is None:
            raise MachineError(Issue(f"there is no run {options.run} in the namespace {kube.namespace}", "pipelines k8s status lists them"))  # fmt: skip
        _say(kube.log(f"{options.run}-runner").rstrip("\n"))
        return None


def _dashboard(options: argparse.Namespace) -> None:
    from pipelines.dashboard import answering
    from pipelines.k8s.watch import Watch

    with _connected(options) as kube:
        if kube.get("DaskCluster", options.run) is None:
            raise MachineError(Issue(f"the run {options.run} has no cluster in the namespace {kube.namespace}", "pipelines k8s status lists them"))  # fmt: skip
        pod = Watch(kube, options.run, start_timeout=60).scheduler()
        with kube.forwarded(pod, 8787, options.port or None) as port:
            link = answering(f"http://127.0.0.1:{port}/status", 15)
            if link is None:
                raise MachineError(Issue("the dashboard does not answer through the port-forward", f"pipelines k8s status {options.run}"))  # fmt: skip
            _say(f"dashboard: {link} (Ctrl-C ends it)")
            while kube.get("DaskCluster", options.run) is not None:
                time.sleep(2)
        _note(f"the run {options.run} has ended")


def _cancel(options: argparse.Namespace) -> None:
    from pipelines.k8s.watch import left, remove

    with _connected(options) as kube:
        if not left(kube, options.run):
            raise ConfigError(Issue(f"there is no run {options.run} in the namespace {kube.namespace}", "pipelines k8s status lists them"))  # fmt: skip
        remove(kube, options.run)
        _say(f"stopped and removed {options.run}")


def _cleanup(options: argparse.Namespace) -> None:
    from pipelines.k8s import submit
    from pipelines.k8s.watch import remove

    with _connected(options) as kube:
        names = [options.run] if options.run else submit.finished(kube)
        for name in names:
            remove(kube, name)
            _say(f"removed {name}")
        if not names:
            _say("nothing to remove")
