"""On a real cluster: runs, faults and what is left. `make test-k8s` runs it.

Uses the cluster that KUBECONFIG names, when PIPELINES_K8S_IMAGE says what image it has; else starts one with ../shared/k8s, builds the
image into it, and stops it afterwards. Everything is done as the launcher, with its Role only; the operator has its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.checkpoint import FORMAT
from tests.test_k8s_manifests import kustomized

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(600, func_only=True)]

ROOT = Path(__file__).parent.parent
TOOLS = ROOT.parent / "shared/k8s"
SPACE = "pipelines"
KINDS = "pods,services,deployments,replicasets,daskjobs,daskclusters,daskworkergroups,daskautoscalers"
FAST: dict[str, Any] = {"cpu": "100m", "pull": "Never", "namespace": SPACE, "start_timeout": 120}
# those that docs/kubernetes.md names
METRICS = {
    "scheduler": ("dask_scheduler_workers", "dask_scheduler_desired_workers", "dask_scheduler_tasks", "dask_scheduler_tasks_suspicious_total"),
    "worker": ("dask_worker_memory_bytes", "dask_worker_transfer_incoming_bytes"),
}  # fmt: skip
PROJECT = """
import os, time

def slow(x: int) -> int:
    if not os.path.exists("/hurry/up"):
        time.sleep({seconds})
    return x * x

def counted(x: int, step: str) -> int:
    import fsspec, uuid
    with fsspec.open(f"s3://bucket/calls/{{step}}/{{x}}-{{uuid.uuid4().hex}}", "w") as file:
        file.write("called")
    time.sleep({seconds})
    return x * x

def greedy(x: int) -> int:
    held = [b"x" * (64 << 20) for _ in range(100)]
    return len(held)
"""


class Admin:
    """kubectl with all rights: makes what tests need, and looks at what is there."""

    def __init__(self, kubeconfig: str, image: str) -> None:
        self.kubeconfig, self.image = kubeconfig, image
        self.is_old = '"minor": "20"' in self.run("version", "-o", "json")

    def run(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", self.kubeconfig, *args],
            input=stdin, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"kubectl {args}: {done.stderr}"
        return done.stdout

    def get(self, kind: str, *args: str, namespace: str = SPACE) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("get", kind, "-n", namespace, "-o", "json", *args))["items"]
        return found

    def pods(self, component: str, run: str | None = None) -> list[dict[str, Any]]:
        labels = f"dask.org/component={component}" + (f",dask.org/cluster-name={run}" if run else "")
        return self.get("pods", "-l", labels)

    def make(self, target: str) -> str:
        overlay = "tests/k8s" if self.is_old else "deploy/k8s/overlays/dev"
        command = ["make", "-s", target, f"OVERLAY={overlay}", f"IMAGE={self.image}"]
        env = {**os.environ, "KUBECONFIG": self.kubeconfig}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def record(self) -> None:
        """From now on the API server writes down what it is asked, where its log can be read."""
        self.log = Path(self.kubeconfig).parent / "log/apiserver.log"
        if self.log.exists():
            self.run("replace", "--raw", "/debug/flags/v", "-f", "-", stdin="3")
            self.start = self.log.stat().st_size

    def asked(self) -> Iterator[tuple[str, str, str]]:
        """(who, resource.group, verb) of each request since; who: `pods`, `pipelines` or another program on this machine."""
        node = self.get("nodes")[0]["status"]["addresses"][0]["address"]
        with self.log.open() as lines:
            lines.seek(self.start)
            for line in lines:
                found = re.search(r'"HTTP" verb="(\w+)" URI="([^"]+)".* userAgent="([^"]*)" srcIP="(.+):\d+"', line)
                if found is None:
                    continue
                method, url, agent, address = found.groups()
                path, _, query = url.partition("?")
                kind, *parts = path.strip("/").split("/")
                group, rest = ("".join(parts[:1]), parts[2:]) if kind == "apis" else ("", parts[1:])
                if rest[:1] == ["namespaces"] and len(rest) > 2:
                    rest = rest[2:]
                if kind not in ("api", "apis") or not rest:
                    continue  # which kinds there are, everybody may ask
                resource = "/".join(rest[:1] + rest[2:3])
                one = len(rest) > 1
                verb = {
                    "GET": "watch" if re.search("watch=(true|1)", query) else "get" if one else "list",
                    "POST": "create", "PUT": "update", "PATCH": "patch",
                    "DELETE": "delete" if one else "deletecollection",
                }.get(method, method)  # fmt: skip
                local = address in ("127.0.0.1", "[::1]", node)
                who = "pods" if not local else "pipelines" if agent.startswith("kr8s") else agent
                yield who, f"{resource}.{group}", verb

    def left(self) -> list[str]:
        """What runs have left."""
        return self.run("get", KINDS, "-n", SPACE, "-o", "name").split() + [
            f"configmap/{each['metadata']['name']}" for each in self.get("configmaps", "-l", "app.kubernetes.io/part-of=pipelines")
        ]  # fmt: skip

    def wait(self, what: str, ready: Callable[[], Any], seconds: float = 240) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            if found := ready():
                return found
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def admin() -> Iterator[Admin]:
    """An empty cluster on which `make deploy` was run. Afterwards nothing of it is left."""
    image, started = os.environ.get("PIPELINES_K8S_IMAGE"), False
    kubeconfig = os.environ.get("KUBECONFIG", str(Path.home() / ".kube/config"))
    if image is None:
        if not (TOOLS / "up").exists():
            pytest.skip("no cluster: set KUBECONFIG and PIPELINES_K8S_IMAGE")
        running = subprocess.run(["pgrep", "-f", "bin/kubelet"], capture_output=True, check=False).returncode == 0
        up = subprocess.run([TOOLS / "up"], capture_output=True, text=True, timeout=1200, check=True)
        kubeconfig, image, started = up.stdout.split()[-1], "pipelines:0.1.0", not running
        subprocess.run([TOOLS / "load-image", "build", image, ROOT], capture_output=True, timeout=1200, check=True)
    found = Admin(kubeconfig, image)
    stays = "PIPELINES_K8S_KEEP" in os.environ  # what is deployed, while tests are written
    try:
        if not stays:
            with contextlib.suppress(AssertionError):
                found.make("undeploy")
        found.make("deploy")
        found.record()
        yield found
        if stays:
            return
        found.make("undeploy")
        assert found.run("get", "namespaces,crds,clusterroles,priorityclasses", "-o", "name").count("pipelines") == 0
        assert "dask" not in found.run("get", "crds", "-o", "name")
    finally:
        if started and not stays:
            subprocess.run([TOOLS / "down"], timeout=120, check=False)


def kubeconfig_of(admin: Admin, account: str, path: Path) -> str:
    """A kubeconfig of a service account."""
    names = [each["metadata"]["name"] for each in admin.get("secrets")]
    secret = next((name for name in names if name.startswith(f"{account}-token")), None)
    if secret:
        token = base64.b64decode(
            json.loads(admin.run("get", "secret", secret, "-n", SPACE, "-o", "json"))["data"]["token"]
        )
    else:
        token = admin.run("create", "token", account, "-n", SPACE, "--duration=3h").strip().encode()
    read = yaml.safe_load(admin.run("config", "view", "--raw", "--minify", "--flatten"))
    read["users"] = [{"name": account, "user": {"token": token.decode()}}]
    read["contexts"][0]["context"]["user"] = account
    path.write_text(yaml.safe_dump(read))
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="session")
def launcher(admin: Admin, tmp_path_factory: pytest.TempPathFactory) -> str:
    return kubeconfig_of(admin, "pipelines-launcher", tmp_path_factory.mktemp("launcher") / "config")


class Runs:
    """`pipelines` as a command, with the launcher's rights."""

    def __init__(self, project: Path, kubeconfig: str, image: str) -> None:
        self.project, self.image, self.started = project, image, list[subprocess.Popen[str]]()
        self.env = {**os.environ, "KUBECONFIG": kubeconfig, "PYTHONPATH": str(ROOT)}

    def config(
        self, steps: str, seconds: float = 0.5, executor: dict[str, Any] | None = None, **kubernetes: Any
    ) -> Path:
        (self.project / "mine.py").write_text(PROJECT.format(seconds=seconds))
        options = {"kind": "kubernetes", **(executor or {}), "kubernetes": {**FAST, "image": self.image, **kubernetes}}
        path = self.project / "config.yaml"
        path.write_text(f"name: test\nexecutor: {json.dumps(options)}\nsteps:\n{steps}")
        return path

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipelines", *args]
        self.started.append(subprocess.Popen(
            command, cwd=self.project, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - ignored below background jobs
        ))  # fmt: skip
        return self.started[-1]

    def run(self, *args: str, seconds: float = 400) -> tuple[int, str]:
        running = self.start(*args)
        try:
            said, _ = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            raise AssertionError(f"{args} hangs: {running.communicate()[0]}") from None
        return running.returncode, said

    def output(self) -> bytes:
        found = sorted(self.project.glob("runs/*/out.parquet"))
        return found[-1].read_bytes()

    def here(self) -> bytes:
        """What the same run gives in this process, without waiting."""
        (self.project / "mine.py").write_text(PROJECT.format(seconds=0))
        code, said = self.run("run", "config.yaml", "--executor", "serial")
        assert code == 0, said
        return self.output()


SQUARES = "  squares: {map: {function: mine:slow, range: [1, 60]}}\n  out: {write: '${run}/out.parquet'}\n"


@pytest.fixture
def runs(admin: Admin, launcher: str, project: Path) -> Iterator[Runs]:
    """Fails where a run leaves anything; then it is removed, for the next test."""
    made = Runs(project, launcher, admin.image)
    yield made
    for each in made.started:
        each.kill()
        if each.stdout is not None:
            each.stdout.close()
        each.wait()
    left = admin.left()
    if left:
        admin.run("delete", "daskjobs,daskclusters,configmaps", "-n", SPACE, "-l", "app.kubernetes.io/part-of=pipelines", check=False)  # fmt: skip
        admin.wait("gone", lambda: not admin.left(), 240)
    assert left == []


def busy(admin: Admin, running: subprocess.Popen[str], workers: int = 2) -> str:
    """Waits until tasks run on as many workers; the run's name."""

    def ready() -> str | None:
        if running.poll() is not None:
            raise AssertionError(running.communicate()[0])
        found = [
            p
            for p in admin.pods("worker")
            if p["status"]["phase"] == "Running" and "deletionTimestamp" not in p["metadata"]
        ]
        if len(found) < workers:
            return None
        name = str(found[0]["metadata"]["labels"]["dask.org/cluster-name"])
        told = metrics(admin, name)
        at_work = told.get('dask_scheduler_tasks{state="memory"}', 0) >= 2
        return name if at_work and connected(told) >= workers else None

    try:
        found: str = admin.wait("workers at work", ready)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{state(admin)}") from None
    return found


def state(admin: Admin) -> str:
    """Pods, events and the ends of the pods' logs, for the message of a test that waited for nothing."""
    told = [admin.run("get", "pods,daskjobs,daskclusters", "-n", SPACE, "-o", "wide", check=False)]
    told.append(admin.run("get", "events", "-n", SPACE, "--sort-by=.lastTimestamp", check=False)[-4000:])
    for pod in admin.get("pods"):
        name = pod["metadata"]["name"]
        told += [f"---- {name}", admin.run("logs", "-n", SPACE, name, "--tail=60", check=False)]
        told += [admin.run("logs", "-n", SPACE, name, "--tail=60", "--previous", check=False)]
    if clusters := admin.get("daskclusters"):
        told.append(json.dumps(metrics(admin, clusters[0]["metadata"]["name"])))
    return "\n".join(told)


def metrics(admin: Admin, run: str) -> dict[str, float]:
    url = f"/api/v1/namespaces/{SPACE}/services/{run}-scheduler:8787/proxy/metrics"
    lines = (
        line.rsplit(" ", 1)
        for line in admin.run("get", "--raw", url, check=False).splitlines()
        if line[:1] not in ("", "#")
    )
    return {name: float(value) for name, value in lines}


def connected(told: dict[str, float]) -> float:
    """Workers, in whatever state."""
    return sum(value for key, value in told.items() if key.startswith("dask_scheduler_workers{"))


# ---- what works


def test_from_nothing_to_the_same_bytes(admin: Admin) -> None:
    """`make deploy` was just run; `make run-k8s`: result, record and log are here, and nothing is there."""
    env = {**os.environ, "KUBECONFIG": admin.kubeconfig}
    overlay = ROOT / "runs/.test-k8s.yaml"
    overlay.parent.mkdir(exist_ok=True)
    overlay.write_text(yaml.safe_dump({"executor": {"kubernetes": {"cpu": "100m", "pull": "Never"}}}))
    command = [
        "make",
        "-s",
        "run-k8s",
        "CONFIG=configs/stock_groupby.yaml",
        f"IMAGE={admin.image}",
        f"ARGS=--overlay {overlay}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    overlay.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(6,558 rows in all)" in done.stdout
    assert re.search(r"dashboard: http://127\.0\.0\.1:\d+/status", done.stderr)
    found = re.search(r"record, results and log: (.+)", done.stderr)
    assert found
    folder = Path(found[1])
    assert "running stock-groupby on Kubernetes" in (folder / "log.txt").read_text()
    record = json.loads((folder / "record.json").read_text())
    assert record["exit_code"] == 0
    local = subprocess.run([sys.executable, "-m", "pipelines", "run", "configs/stock_groupby.yaml", "--executor", "serial"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)  # fmt: skip
    here = re.search(r"written to (\S+)", local.stdout)
    assert here
    assert (folder / "by_date.parquet").read_bytes() == (ROOT / here[1]).read_bytes()
    assert admin.left() == []


def test_from_here_with_a_file_that_travels_and_code(admin: Admin, runs: Runs) -> None:
    """Also the dashboard's content and metrics, through port-forwards; no pod has a token; pods are as they were validated."""
    (runs.project / "data.csv").write_text("x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(20_000)))
    steps = "  d: {read: {path: data.csv, partitions: 4}}\n  s: {aggregate: {by: [x], y: sum(y)}, checkpoint: memory}\n"
    runs.config(
        steps + "  out: {write: '${run}/out.parquet'}\n" + SQUARES.replace("out:", "more:").replace("out.", "more."), 1
    )
    running = runs.start("run", "config.yaml")
    name = busy(admin, running)
    found = metrics(admin, name)
    assert found["dask_scheduler_desired_workers"] >= 1
    assert connected(found) == 2
    shown = runs.start("k8s", "dashboard", name, "--port", "0", "--namespace", SPACE)
    assert shown.stdout is not None
    link = re.search(r"http://\S+/status", shown.stdout.readline())
    assert link
    with urllib.request.urlopen(link[0], timeout=60) as page:
        assert b"docs_json" in page.read()  # what Bokeh draws
    with urllib.request.urlopen(link[0].replace("/status", "/metrics"), timeout=60) as page:
        assert b"dask_scheduler_tasks_suspicious_total" in page.read()
    shown.send_signal(signal.SIGINT)
    assert shown.wait(90) == 130
    for pod in [*admin.pods("scheduler", name), *admin.pods("worker", name)]:
        told = pod["metadata"]["annotations"]
        assert told["prometheus.io/scrape"] == "true"
        proxy = f"pods/{pod['metadata']['name']}:{told['prometheus.io/port']}/proxy{told['prometheus.io/path']}"
        scraped = admin.run("get", "--raw", f"/api/v1/namespaces/{SPACE}/{proxy}")
        kind = pod["metadata"]["labels"]["dask.org/component"]
        for metric in METRICS[kind]:
            assert re.search(rf"^{metric}(\{{| )", scraped, re.MULTILINE), (kind, metric)
    for pod in admin.get("pods"):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not [v for v in pod["spec"]["volumes"] if "secret" in v or "projected" in v]
    worker = admin.pods("worker", name)[0]["metadata"]["name"]
    code = "import os; print(os.getuid(), os.path.exists('/var/run/secrets/kubernetes.io'), os.access('/opt', os.W_OK))"
    assert admin.run("exec", "-n", SPACE, worker, "--", "python", "-c", code).split() == ["10001", "False", "False"]
    said = running.communicate(timeout=400)[0]
    assert running.returncode == 0, said
    assert "dashboard: http://127.0.0.1:" in said
    assert runs.output() == runs.here()
    assert (len(list(runs.project.glob("runs/*/more.parquet")))) == 2


def test_attach_uses_a_cluster_and_leaves_it(admin: Admin, runs: Runs) -> None:
    from pipelines.k8s.manifests import Setting, cluster
    from pipelines.spec import ExecutorOptions, KubernetesOptions

    options = ExecutorOptions(workers=1, kubernetes=KubernetesOptions(**FAST, image=admin.image))
    admin.run("create", "-n", SPACE, "-f", "-", stdin=json.dumps(cluster(Setting("mine", options, runs.project))))
    try:
        runs.config(SQUARES, 0.0, attach="mine")
        code, said = runs.run("run", "config.yaml")
        assert code == 0, said
        assert "on Kubernetes, mine (1 worker, 1 threads)" in said
        assert [each["metadata"]["name"] for each in admin.get("daskclusters")] == ["mine"]
        runs.config(SQUARES, 0.0, attach="yours")
        code, said = runs.run("run", "config.yaml")
        assert (code, "there is no DaskCluster yours" in said) == (4, True)
    finally:
        admin.run("delete", "daskcluster", "mine", "-n", SPACE)
        admin.wait("gone", lambda: not admin.left())


# ---- faults


def test_workers_that_are_killed_and_deleted(admin: Admin, runs: Runs) -> None:
    runs.config(SQUARES)
    running = runs.start("run", "config.yaml")
    name = busy(admin, running)
    first, second = admin.pods("worker", name)
    dask_name = first["spec"]["containers"][0]["env"]
    worker = next(each["value"] for each in dask_name if each["name"] == "DASK_WORKER_NAME")
    _kill(worker)
    admin.run("delete", "pod", "-n", SPACE, second["metadata"]["name"], "--wait=false")
    said = running.communicate(timeout=400)[0]
    assert running.returncode == 0, said
    assert runs.output() == runs.here()


def _kill(argument: str) -> None:
    """SIGKILL from outside, where the node is this machine."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().decode().split("\0")
            if argument in words and "worker" in words:
                os.kill(int(entry.parent.name), signal.SIGKILL)
                return
    pytest.skip("the node is not this machine")


@pytest.mark.parametrize("way", ["here", "there"])
def test_a_scheduler_that_is_killed(admin: Admin, runs: Runs, way: str) -> None:
    """The run starts again on another scheduler, or ends with a clear error; it does not hang."""
    runs.config(SQUARES, 0.7)
    running = runs.start(*(["run", "config.yaml"] if way == "here" else ["k8s", "submit", "config.yaml", "--wait"]))
    name = busy(admin, running)
    pod = admin.pods("scheduler", name)[0]["metadata"]["name"]
    admin.run("delete", "pod", "-n", SPACE, pod, "--grace-period=0", "--force")
    said = running.communicate(timeout=400)[0]
    assert running.returncode in (0, 4), said
    assert "the scheduler is gone" in said
    if running.returncode == 0:
        assert runs.output() == runs.here()


@pytest.fixture
def s3(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server on this machine and a Secret that leads pods to it; a client that looks at what is there."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    node = admin.get("nodes")[0]["status"]["addresses"][0]["address"]
    try:
        server = moto.ThreadedMotoServer(ip_address=node, port=0, verbose=False)
        server.start()
        url = "http://{}:{}".format(*server.get_host_and_port())
    except OSError:
        pytest.skip("the node is not this machine")
    given = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": given}
    admin.run("create", "-n", SPACE, "-f", "-", stdin=json.dumps(secret))
    yield client
    admin.run("delete", "secret", "s3", "-n", SPACE)
    client.close()
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("way", ["here", "there"])
def test_a_lost_scheduler_costs_nothing_that_is_in_the_store(admin: Admin, s3: Any, runs: Runs, way: str) -> None:
    """Every call is written down: what was in the store when the scheduler died is not called again."""
    runs.env.update({name: value for name, value in os.environ.items() if name.startswith("AWS_")})

    def calls(step: str) -> list[int]:
        found = s3.list_objects_v2(Bucket="bucket", Prefix=f"calls/{step}/").get("Contents", [])
        return sorted(int(each["Key"].split("/")[-1].split("-")[0]) for each in found)

    def kept() -> int:
        found = s3.list_objects_v2(Bucket="bucket", Prefix=f"store/{FORMAT}/").get("Contents", [])
        return sum(bool(re.fullmatch(rf"store/{FORMAT}/[0-9a-f]+/[^/]+\.json", each["Key"])) for each in found)

    steps = "".join(
        f"  {name}: {{map: {{function: mine:counted, range: [1, {last}], arguments: {{step: {name}}}}}{more}}}\n"
        for name, last, more in (("first", 20, ", checkpoint: disk"), ("second", 40, ""))
    )
    path = runs.config(steps + "  both: {union: {}, from: [first, second]}\n  out: {write: '${run}/out.parquet'}\n", 0.4, secrets=["s3"])  # fmt: skip
    path.write_text("store: s3://bucket/store\n" + path.read_text())
    running = runs.start(*(["run", "config.yaml"] if way == "here" else ["k8s", "submit", "config.yaml", "--wait"]))
    # the second step begins while the last partition of the first is still written
    admin.wait(
        "the second step", lambda: running.poll() is not None or (len(calls("second")) > 4 and kept() == 20), 240
    )
    (pod,) = admin.pods("scheduler")
    admin.run("delete", "pod", "-n", SPACE, pod["metadata"]["name"], "--grace-period=0", "--force")
    said = running.communicate(timeout=400)[0]
    assert running.returncode == 0, said
    assert "the scheduler is gone; the run goes on from the store" in said
    assert re.search(r"first: reused, \d+ partitions", said), said
    assert calls("first") == list(range(1, 21))
    assert len(calls("second")) > 40  # these were lost with the scheduler
    ran = runs.output()
    runs.config(steps.replace(", checkpoint: disk", "") + "  both: {union: {}, from: [first, second]}\n  out: {write: '${run}/out.parquet'}\n")  # fmt: skip
    assert ran == runs.here()


@contextlib.contextmanager
def volume(admin: Admin, name: str, folder: Path, path: Path | None = None) -> Iterator[dict[str, Any]]:
    """A folder of the node as `volumes` of a config; in pods it stands under `path`."""
    size: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    kept = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        **size, "capacity": {"storage": "1Gi"}, "hostPath": {"path": str(folder)}}}  # fmt: skip
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
        **size, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}}  # fmt: skip
    both = {"apiVersion": "v1", "kind": "List", "items": [kept, claim]}
    admin.run("create", "-n", SPACE, "-f", "-", stdin=json.dumps(both))
    try:
        yield {str(path or folder): {"persistentVolumeClaim": {"claimName": name}}}
    finally:
        admin.run("delete", "pvc", name, "-n", SPACE)
        admin.run("delete", "pv", name)


def test_a_model_is_trained_and_the_next_run_finds_it(admin: Admin, launcher: str, tmp_path: Path) -> None:
    """The shipped configs, on a volume that both runs mount."""
    folder = tmp_path / "models"
    folder.mkdir()
    folder.chmod(0o777)
    overlay = tmp_path / "volume.yaml"
    env = {**os.environ, "KUBECONFIG": launcher}
    given = ["--overlay", str(overlay), "-p", "model=models/direction.model"]

    def ran(name: str) -> Path:
        command = [sys.executable, "-m", "pipelines", "k8s", "submit", f"configs/{name}.yaml", "--wait", *given]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"record, results and log: (.+)", done.stderr)
        assert found
        return Path(found[1])

    with volume(admin, "models", folder, ROOT / "models") as mounted:
        kubernetes = {**FAST, "image": admin.image, "volumes": mounted}
        overlay.write_text(yaml.safe_dump({"executor": {"workers": 1, "kubernetes": kubernetes}}))
        trained = json.loads((ran("train_direction") / "record.json").read_text())
        assert not (ROOT / "models").exists()  # it stayed on the volume
        assert trained["outputs"]["saved"]["path"] == str(ROOT / "models/direction.model")
        scores = (ran("score") / "scores.parquet").read_bytes()
    assert admin.left() == []
    here = [sys.executable, "-m", "pipelines", "run", "configs/score.yaml", "--executor", "serial"]
    here += ["-p", f"model={folder}/direction.model"]
    done = subprocess.run(here, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    written = re.search(r"written to (\S+)", done.stdout)
    assert written, done.stdout + done.stderr
    assert scores == (ROOT / written[1]).read_bytes()


def test_scaling_up_and_down_loses_nothing(admin: Admin, runs: Runs) -> None:
    """Also when another operator takes the place of the one that began, as by `make deploy`."""
    hurry = runs.project / "hurry"
    hurry.mkdir()
    steps = "  kept: {map: {function: mine:slow, range: [1, 16]}, checkpoint: memory}\n" + SQUARES.replace("60", "200")

    def scaled(count: int) -> None:
        patch = json.dumps({"spec": {"worker": {"replicas": count}}})
        admin.run("patch", "daskworkergroup", f"{name}-default", "-n", SPACE, "--type=merge", "-p", patch)
        admin.wait(f"{count} workers", lambda: connected(metrics(admin, name)) == count, 240)

    with volume(admin, "hurry", hurry, Path("/hurry")) as mounted:
        runs.config(steps, 1.5, volumes=mounted)
        running = runs.start("run", "config.yaml")
        name = busy(admin, running)
        scaled(4)
        (before,) = admin.get("pods", namespace="pipelines-system")
        admin.run("delete", "pod", "-n", "pipelines-system", before["metadata"]["name"])
        scaled(2)
        (hurry / "up").touch()
        said = running.communicate(timeout=400)[0]
    assert running.returncode == 0, said
    suspicious = re.findall("died", said)
    assert suspicious == []
    assert runs.output() == runs.here()


def test_a_driver_that_is_killed(admin: Admin, runs: Runs) -> None:
    runs.config(SQUARES, 1, idle_timeout=5)
    running = runs.start("run", "config.yaml")
    busy(admin, running)
    running.kill()
    running.communicate()
    admin.wait("the operator removes the cluster", lambda: not admin.left(), 240)


@pytest.mark.parametrize("way", ["here", "there"])
def test_ctrl_c_leaves_nothing(admin: Admin, runs: Runs, way: str) -> None:
    runs.config(SQUARES, 1)
    running = runs.start(*(["run", "config.yaml"] if way == "here" else ["k8s", "submit", "config.yaml", "--wait"]))
    busy(admin, running)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=400)[0]
    assert running.returncode == 130, said
    assert admin.left() == []


def test_a_submitted_run_is_listed_followed_and_removed(admin: Admin, runs: Runs) -> None:
    runs.config(SQUARES, 0.1)
    code, said = runs.run("k8s", "submit", "config.yaml")
    assert code == 0, said
    name = said.split()[0]
    assert name in runs.run("k8s", "status", "--namespace", SPACE)[1]
    code, said = runs.run("k8s", "logs", name, "--follow", "--namespace", SPACE)
    assert code == 0, said
    assert "running test on Kubernetes" in said
    assert runs.output() == runs.here()
    admin.wait("the end", lambda: "Succeeded" in runs.run("k8s", "status", "--namespace", SPACE)[1])
    assert "ended with exit code 0" in runs.run("k8s", "status", name, "--namespace", SPACE)[1]
    assert runs.run("k8s", "cleanup", "--namespace", SPACE) == (0, f"removed {name}\n")


def test_a_data_error_and_a_deadline(admin: Admin, runs: Runs) -> None:
    (runs.project / "data.csv").write_text("x\n" + "1\n" * 40_000 + "oops\n" + "1\n" * 40_000)
    runs.config("  d: {read: {path: data.csv, dtypes: {x: int64}}}\n  out: {write: '${run}/out.parquet'}\n")
    code, said = runs.run("k8s", "submit", "config.yaml", "--wait")
    assert code == 3, said
    assert "data.csv: row 40001" in said
    runs.config(SQUARES, 5, deadline=25)
    began = time.monotonic()
    code, said = runs.run("k8s", "submit", "config.yaml", "--wait")
    assert code == 4, said
    assert "took longer than its deadline" in said
    assert time.monotonic() - began < 300


@pytest.mark.parametrize(
    ("way", "changed", "expected", "seconds"),
    [
        ("here", {"image": "nowhere:1"}, "cannot start: ErrImageNeverPull", 300),
        ("there", {"image": "nowhere.invalid/x:1", "pull": "IfNotPresent"}, "its image nowhere.invalid/x:1 is not pulled", 300),
        ("here", {"scheduler_memory": "900GiB", "start_timeout": 8}, "exceeded quota", 300),
        ("there", {"node_selector": {"no": "such"}, "cpu": "100m", "start_timeout": 15}, "no worker", 300),
        ("here", {"node_selector": {"no": "such"}, "start_timeout": 10}, "didn't match", 300),
        ("here", {"secrets": ["not-there"]}, "CreateContainerConfigError", 300),
        ("here", {"service_account": "nobody"}, 'serviceaccount "nobody" not found', 300),
        ("here", {"context": "elsewhere"}, "no Kubernetes context", 60),
    ],
    ids=["image", "pull", "quota", "no-worker", "pending", "secret", "account", "context"],
)  # fmt: skip
def test_pods_that_do_not_start(runs: Runs, way: str, changed: dict[str, Any], expected: str, seconds: float) -> None:
    runs.config(SQUARES, **changed)
    began = time.monotonic()
    code, said = runs.run(*(["run", "config.yaml"] if way == "here" else ["k8s", "submit", "config.yaml", "--wait"]))
    assert code == 4, said
    assert expected in said
    assert "Traceback" not in said
    assert time.monotonic() - began < seconds


def test_a_worker_that_needs_too_much_memory(runs: Runs) -> None:
    """In there, where the driver may not ask for pods: step and remedy are named. One item is in one partition: there are no smaller ones."""
    runs.config("  big: {map: {function: mine:greedy, items: [1]}}\n", executor={"memory_limit": "600MiB"})
    code, said = runs.run("k8s", "submit", "config.yaml", "--wait")
    assert code == 4, said
    assert "tried again" not in said
    # what takes all at once is not always seen to be short of memory; the launcher sees the pods
    assert re.search(r"error: workers (ran out of memory|died again and again) in big: it needs more than the 600MiB of a worker's pod", said), said  # fmt: skip
    assert "raise executor.memory_limit" in said
    assert "OOMKilled, for want of memory: " in said
    assert "Traceback" not in said
    (record,) = runs.project.glob("runs/*/record.json")
    losses = json.loads(record.read_text())["losses"]
    assert {stage for each in losses for stage in each["stages"]} == {"big"}


def test_want_of_memory_is_tried_in_smaller_partitions(admin: Admin, runs: Runs) -> None:
    """Where that cannot change the answer. The data is on a volume: here and there under the same path."""
    data = runs.project / "data"
    data.mkdir()
    rows = 6_000_000
    lines = (f"{i},text {i % 977} {i}\n" for i in range(rows))
    (data / "a.csv").write_text("k,x\n" + "".join(lines))
    for each in (*runs.project.parents, data):  # the pods' user reads it
        each.chmod(each.stat().st_mode | 0o055)
    steps = "  a: {read: {path: data/a.csv, partitions: 1}}\n  s: {sort: [x, k]}\n"
    with volume(admin, "data", data) as mounted:
        runs.config(steps, executor={"memory_limit": "600MiB"}, volumes=mounted)
        code, said = runs.run("run", "config.yaml")
    assert code == 0, said
    assert re.search("workers ran out of memory in a.*; it is tried again in smaller partitions", said), said
    assert "(6,000,000 rows in all)" in said


@pytest.mark.parametrize("component", ["worker", "job-runner"])
def test_an_eviction(admin: Admin, runs: Runs, component: str) -> None:
    """Of a worker: the run goes on. Of the driver: the run ends, and says why."""
    runs.config(SQUARES, 0.7)
    running = runs.start("k8s", "submit", "config.yaml", "--wait")
    name = busy(admin, running)
    pod = admin.pods(component, name)[0]["metadata"]["name"]
    version = "policy/v1beta1" if admin.is_old else "policy/v1"
    eviction = {"apiVersion": version, "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE}}
    admin.run(
        "create", "--raw", f"/api/v1/namespaces/{SPACE}/pods/{pod}/eviction", "-f", "-", stdin=json.dumps(eviction)
    )
    said = running.communicate(timeout=400)[0]
    if component == "worker":
        assert running.returncode == 0, said
        assert runs.output() == runs.here()
    else:
        assert running.returncode in (4, 130), said
        assert "is gone" in said or "stopped" in said, said


# ---- doctor


def test_doctor_when_all_is_well_and_for_what_is_not(admin: Admin, runs: Runs, tmp_path: Path) -> None:
    runs.config(SQUARES)
    code, said = runs.run("k8s", "doctor", "config.yaml")
    assert (code, said.splitlines()[-1]) == (0, "all is well"), said

    runs.config(SQUARES, image="nowhere.invalid/x:1", pull="IfNotPresent")
    code, said = runs.run("k8s", "doctor", "config.yaml")
    assert code == 4
    assert "its image nowhere.invalid/x:1 is not pulled" in said

    steps = "  d: {read: {path: /data/x.csv, dtypes: {x: int64}}}\n"
    runs.config(steps, volumes={"/data": {"emptyDir": {}}})
    code, said = runs.run("k8s", "doctor", "config.yaml")
    assert code == 4
    assert "a pod finds nothing at /data/x.csv" in said

    path = runs.config(SQUARES.replace("60]}", "60]}, checkpoint: disk"))
    nowhere = "{url: 's3://bucket/x', options: {endpoint_url: 'http://127.0.0.1:9', key: a, secret: b}}"
    path.write_text(f"store: {nowhere}\n{path.read_text()}")
    code, said = runs.run("k8s", "doctor", "config.yaml")
    assert code == 4
    assert "a pod cannot keep anything in the store s3://bucket/x" in said

    runs.config(SQUARES, context="elsewhere")
    code, said = runs.run("k8s", "doctor", "config.yaml")
    assert code == 4
    assert "no    context: no Kubernetes context" in said

    runs.config(SQUARES)
    there = runs.env["KUBECONFIG"]
    runs.env["KUBECONFIG"] = kubeconfig_of(admin, "pipelines-run", tmp_path / "nobody")
    code, said = runs.run("k8s", "doctor", "config.yaml")
    assert code == 4
    assert "you may not: get daskclusters" in said
    code, said = runs.run("run", "config.yaml")
    assert code == 4
    assert "forbidden to create daskclusters" in said
    runs.env["KUBECONFIG"] = there


def test_other_versions(admin: Admin, runs: Runs, tmp_path: Path) -> None:
    """Sources that are not those of the image: refused by doctor, from here and in there."""
    import shutil

    shutil.copytree(ROOT / "pipelines", tmp_path / "other/pipelines")
    with (tmp_path / "other/pipelines/errors.py").open("a") as file:
        file.write("\n# changed\n")
    runs.env["PYTHONPATH"] = str(tmp_path / "other")
    runs.config(SQUARES, 0.0)
    code, said = runs.run("k8s", "doctor", "config.yaml")
    assert code == 4
    assert "the image has other versions: pipelines" in said
    code, said = runs.run("run", "config.yaml")
    assert code == 4, said
    assert "the same version with other sources" in said
    code, said = runs.run("k8s", "submit", "config.yaml", "--wait")
    assert code == 4
    assert "the image has pipelines" in said


def test_no_operator_and_no_definitions(admin: Admin, runs: Runs) -> None:
    """Last: what it takes away is put back by `make deploy`."""
    runs.config(SQUARES, 0.0)
    scale = ("scale", "deployment/pipelines-operator", "-n", "pipelines-system")
    admin.run(*scale, "--replicas=0")
    try:
        admin.wait("gone", lambda: not admin.get("pods", namespace="pipelines-system"))
        code, said = runs.run("k8s", "doctor", "config.yaml")
        assert (code, "no operator acts on" in said) == (4, True), said
        code, said = runs.run("run", "config.yaml")
        assert (code, "no operator acts on" in said) == (4, True), said
        assert admin.left() == []
        admin.run("delete", "-f", str(ROOT / "deploy/k8s/operator/crds"))
        code, said = runs.run("k8s", "doctor", "config.yaml")
        assert code == 4
        assert "no    definitions: cannot get daskclusters: this cluster does not know that kind" in said
        code, said = runs.run("run", "config.yaml")
        assert code == 4
        assert "does not know that kind" in said
    finally:
        admin.make("deploy")
        admin.run(*scale, "--replicas=1")


def rights(*folders: str, role: str) -> set[tuple[str, str]]:
    """(resource.group, verb) that our Roles of this name give."""
    return {
        (f"{resource}.{group}", verb)
        for folder in folders
        for each in kustomized(ROOT / "deploy/k8s" / folder)
        if each["kind"] in ("Role", "ClusterRole") and each["metadata"]["name"] == role
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_roles_give_what_is_used_and_no_more(admin: Admin, request: pytest.FixtureRequest) -> None:
    """What all tests before made the operator and the launcher ask for. No other pod asks for anything: none has a token."""
    if not admin.log.exists():
        pytest.skip("the API server's log is not on this machine")
    used: dict[str, set[tuple[str, str]]] = {"pods": set(), "pipelines": set()}
    for who, resource, verb in admin.asked():
        used.setdefault(who, set()).add((resource, verb))
    launcher = rights("overlays/dev", role="pipelines-launcher")
    operator = rights("operator", role="pipelines-operator")
    elsewhere = {("pods/portforward.", "create")} | {each for each in operator if "/finalizers" in each[0]}
    used["pipelines"].discard(("selfsubjectaccessreviews.authorization.k8s.io", "create"))  # which everybody may
    assert used["pods"]
    assert used["pods"] - operator == set()
    assert used["pipelines"] - launcher == set()
    ran = {item.name.partition("[")[0] for item in request.session.items}
    if {name for name in globals() if name.startswith("test_")} <= ran:
        # beside what newer or stricter clusters ask for
        assert operator - used["pods"] - elsewhere == set()
        assert launcher - used["pipelines"] - elsewhere == set()
