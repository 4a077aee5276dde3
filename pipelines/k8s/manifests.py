"""What a run is on Kubernetes: a DaskCluster by itself, or inside of a DaskJob with the pod that drives it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from dask.utils import parse_bytes
from msgspec import Struct

from pipelines.errors import ConfigError, Issue
from pipelines.k8s.api import DASK, Object
from pipelines.spec import ExecutorOptions

RUN = "pipelines/run"
"""The label that all objects of a run have, and its id."""
_PART = {"app.kubernetes.io/part-of": "pipelines"}
_USER = 10001
_MEMORY = 0.85
"""The part of a pod's memory that Dask plans with: Python, its libraries and Polars' buffers are not all counted."""
_ROUTES = (  # what the operator asks (api), Prometheus, probes and people; without the API scaling down loses data
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.json",
    "distributed.http.health",
    "distributed.http.proxy",
    "distributed.http.statics",
    "distributed.http.scheduler.api",
)
_SYSTEM = ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var")  # fmt: skip


class Setting(Struct, frozen=True):
    """What all pods of a run share."""

    name: str
    options: ExecutorOptions
    root: Path
    """The project's folder: it stands under the same path in every pod, so that paths mean the same there and here."""

    @property
    def image(self) -> str:
        return self.options.kubernetes.image or f"pipelines:{importlib.metadata.version('pipelines')}"

    @property
    def workers(self) -> int:
        return self.options.workers or 2

    @property
    def threads(self) -> int:
        return self.options.threads or 1

    @property
    def labels(self) -> dict[str, str]:
        return {**_PART, RUN: self.name}

    @property
    def address(self) -> str:
        return f"tcp://{self.name}-scheduler:8786"


def new_name(pipeline: str) -> str:
    """Unique, because a name that is used again soon may never start (dask-kubernetes#829); short, because pods' names get longer."""
    slug = re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-")[:24].strip("-") or "run"
    slug = slug if slug[0].isalpha() else f"p{slug}"
    return f"{slug}-{uuid.uuid4().hex[:8]}"


def cluster(setting: Setting) -> Object:
    """A DaskCluster whose driver is elsewhere; the operator deletes it when the driver has been gone for long."""
    spec = {"idleTimeout": setting.options.kubernetes.idle_timeout, **_cluster(setting)}
    return _valid({"apiVersion": DASK, "kind": "DaskCluster", "metadata": _metadata(setting), "spec": spec})


def job(setting: Setting, args: Sequence[str], *, env: dict[str, str], workers: int | None = None) -> Object:
    """A DaskJob: the cluster, and the pod that drives the run with `args`. Its archive is the ConfigMap of the same name."""
    options = setting.options.kubernetes
    container = _container(setting, "run", args, cpu="100m", memory=options.scheduler_memory)
    container["env"] += [
        # the job's pod starts beside the scheduler's
        _env("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", f"{options.start_timeout}s"),
        *(_env(key, value) for key, value in env.items()),
    ]
    container["volumeMounts"].append({"name": "archive", "mountPath": "/archive", "readOnly": True})
    pod = _pod(setting, container, "pipelines-scheduler")
    pod["volumes"].append({"name": "archive", "configMap": {"name": setting.name}})
    pod |= {"restartPolicy": "Never", "activeDeadlineSeconds": options.deadline, "terminationGracePeriodSeconds": 20}
    spec = {"job": {"spec": pod}, "cluster": {"spec": _cluster(setting, workers)}}
    return _valid({"apiVersion": DASK, "kind": "DaskJob", "metadata": _metadata(setting), "spec": spec})


def archive(setting: Setting, content: str) -> Object:
    """content: of the archive, in base64."""
    metadata = _metadata(setting)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": {"run.tar.xz": content}}


def _cluster(setting: Setting, workers: int | None = None) -> Object:
    options = setting.options.kubernetes
    scheduler = _container(
        setting,
        "scheduler",
        ["dask", "scheduler", "--host", "0.0.0.0", "--port", "8786", "--dashboard-address", ":8787"],
        cpu="250m",
        memory=options.scheduler_memory,
    )
    scheduler["env"] += [
        _env("DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES", str(list(_ROUTES))),
        _env("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "5"),
        _env("DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT", f"{options.start_timeout}s"),
    ]
    scheduler["ports"] = [_port("tcp-comm", 8786), _port("http-dashboard", 8787)]
    health = {"httpGet": {"path": "/health", "port": "http-dashboard"}}
    scheduler["readinessProbe"] = {**health, "periodSeconds": 2, "timeoutSeconds": 5}
    # a scheduler with much to do answers late: only one that has not answered for five minutes is dead
    scheduler["livenessProbe"] = {**health, "periodSeconds": 30, "timeoutSeconds": 10, "failureThreshold": 10}

    memory = parse_bytes(setting.options.memory_limit or "2GiB")
    args = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--no-nanny", "--nthreads", str(setting.threads)]
    args += ["--memory-limit", str(int(memory * _MEMORY)), "--dashboard-address", ":8788"]
    args += ["--death-timeout", str(options.start_timeout), "--local-directory", "/scratch"]
    worker = _container(setting, "worker", args, cpu=options.cpu, memory=str(memory), threads=setting.threads)
    # as large as the number of tasks at once: smaller, they wait for one another
    worker["env"].append(_env("POLARS_MAX_THREADS", str(setting.threads)))
    # a worker that takes much at once says that it pauses before it is killed: in there nothing else tells why it died
    worker["env"].append(_env("DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL", "20ms"))
    worker["ports"] = [_port("http-dashboard", 8788)]
    worker["lifecycle"] = {"preStop": {"exec": {"command": ["python", "-m", "pipelines.k8s.retire"]}}}
    worker["volumeMounts"].append({"name": "scratch", "mountPath": "/scratch"})
    pod = _pod(setting, worker, "pipelines-worker")
    pod["volumes"].append({"name": "scratch", "emptyDir": {}})
    pod["terminationGracePeriodSeconds"] = 60
    if options.node_selector:
        pod["nodeSelector"] = dict(options.node_selector)
    if options.tolerations:
        pod["tolerations"] = list(options.tolerations)
    selector = {"dask.org/cluster-name": setting.name, "dask.org/component": "scheduler"}
    return {
        "scheduler": {
            "metadata": _scraped(8787),
            "spec": _pod(setting, scheduler, "pipelines-scheduler"),
            "service": {
                "type": "ClusterIP",
                "selector": selector,
                "ports": [
                    {"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"},
                    {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"},
                ],
            },
        },
        "worker": {
            "metadata": _scraped(8788),
            "replicas": setting.workers if workers is None else workers,
            "spec": pod,
        },
    }


def _container(
    setting: Setting, name: str, args: Sequence[str], *, cpu: str, memory: str, threads: int | None = None
) -> Object:
    options = setting.options.kubernetes
    bytes_ = str(parse_bytes(memory))
    limits = {"memory": bytes_} | ({"cpu": str(threads)} if threads else {})
    made: Object = {
        "name": name,
        "image": setting.image,
        "imagePullPolicy": options.pull,
        "args": list(args),
        "env": [_env("TMPDIR", "/tmp"), *(_env(key, value) for key, value in options.env.items())],
        "resources": {"requests": {"cpu": cpu, "memory": bytes_}, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "project", "mountPath": str(setting.root)},
            *({"name": f"volume-{i}", "mountPath": path} for i, path in enumerate(options.volumes)),
        ],
    }
    if options.secrets:
        made["envFrom"] = [{"secretRef": {"name": name}} for name in options.secrets]
    return made


def _pod(setting: Setting, container: Object, priority: str) -> Object:
    options = setting.options.kubernetes
    made: Object = {
        "serviceAccountName": options.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "project", "emptyDir": {}},
            *({"name": f"volume-{i}", **source} for i, source in enumerate(options.volumes.values())),
        ],
    }
    if options.priority:
        made["priorityClassName"] = priority
    return made


def _metadata(setting: Setting) -> Object:
    return {"name": setting.name, "labels": setting.labels}


def _scraped(port: int) -> Object:
    return {"annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}}  # fmt: skip


def _env(name: str, value: str) -> Object:
    return {"name": name, "value": value}


def _port(name: str, number: int) -> Object:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def mountable(root: Path) -> Issue | None:
    """Why a project's folder cannot stand under its own path in a pod."""
    if str(root) in _SYSTEM or ":" in str(root) or str(root).startswith("/opt/pipelines"):
        return Issue(f"the project's folder {root} cannot stand under this path in a pod", "keep the project in a folder of its own, as /home/me/project")  # fmt: skip
    return None


# Held against the definitions that the operator installs, strictly: the API server drops what it does not know, and says nothing.


def definitions() -> Path:
    """The folder of Dask's custom resource definitions, in the installed dask-kubernetes."""
    spec = importlib.util.find_spec("dask_kubernetes")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(Issue("dask-kubernetes is not installed", "pip install 'pipelines[k8s]'"))
    return Path(spec.submodule_search_locations[0]) / "operator/deployment/helm/dask-kubernetes-operator/crds"


@cache
def _schema(kind: str) -> Any:
    import jsonschema

    read = yaml.load(
        (definitions() / f"{kind.lower()}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    found = read["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return jsonschema.Draft7Validator(_strict(found))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if made.get("type") == "object" and "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def problems(manifest: Object) -> Iterator[str]:
    for error in _schema(manifest["kind"]).iter_errors(manifest["spec"]):
        yield f"{'.'.join(map(str, error.path))}: {error.message[:160]}"


def _valid(manifest: Object) -> Object:
    if found := list(problems(manifest)):
        remedy = "mend `executor.kubernetes`: volumes and tolerations are written as in a pod"
        raise ConfigError(
            *(Issue(f"the {manifest['kind']} would not be taken as it is: {each}", remedy) for each in found)
        )
    return manifest
