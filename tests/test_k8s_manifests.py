"""What goes to Kubernetes, without one: held against its schemas, its security profile and our own Roles."""

from __future__ import annotations

import ast
import filecmp
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipelines import ConfigError, load
from pipelines.cli import main
from pipelines.k8s import bundle
from pipelines.k8s.doctor import NEEDED
from pipelines.k8s.manifests import Setting, cluster, definitions, job, new_name, problems
from pipelines.spec import ExecutorOptions, KubernetesOptions
from pipelines.versions import versions

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy/k8s"
VERSIONS = ("1.28", ".".join(kubernetes_validate.latest_version().split(".")[:2]))
MUCH = ExecutorOptions(
    workers=4,
    threads=2,
    memory_limit="4GiB",
    kubernetes=KubernetesOptions(
        node_selector={"disk": "fast"},
        tolerations=[{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
        volumes={"/data": {"persistentVolumeClaim": {"claimName": "prices", "readOnly": True}}},
        secrets=["s3"],
        env={"AWS_REGION": "eu-west-1"},
    ),
)


def rendered(options: ExecutorOptions) -> Iterator[dict[str, Any]]:
    setting = Setting(new_name("Stock_Groupby"), options, Path("/home/me/project"))
    yield cluster(setting)
    yield job(setting, ["python", "-m", "pipelines.k8s.job"], env={})


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """What the folder's kustomization gives; without kubectl: its files, which it does not change."""
    if shutil.which("kubectl"):
        done = subprocess.run(
            ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=True
        )
        return [each for each in yaml.safe_load_all(done.stdout) if each]
    read = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found = list[dict[str, Any]]()
    for name in read["resources"]:
        path = (folder / name).resolve()
        found += kustomized(path) if path.is_dir() else [e for e in yaml.safe_load_all(path.read_text()) if e]
    return found


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = manifest["spec"]
    if manifest["kind"] == "DaskJob":
        yield spec["job"]["spec"]
        spec = spec["cluster"]["spec"]
    if "scheduler" in spec:
        yield spec["scheduler"]["spec"]
        yield spec["worker"]["spec"]
    elif "template" in spec:
        yield spec["template"]["spec"]


def valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(json.loads(json.dumps(manifest)), version, strict=True)


@pytest.mark.parametrize("options", [ExecutorOptions(), MUCH], ids=["plain", "much"])
@pytest.mark.parametrize("version", VERSIONS)
def test_pods_are_valid_for_kubernetes_and_nothing_is_dropped(options: ExecutorOptions, version: str) -> None:
    for manifest in rendered(options):
        assert list(problems(manifest)) == []
        for spec in pods(manifest):
            valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}, version)


@pytest.mark.parametrize("folder", ["operator", "overlays/dev", "overlays/prod"])
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_deployed_is_valid(folder: str, version: str) -> None:
    found = kustomized(DEPLOY / folder)
    assert len(found) > 8
    for manifest in found:
        valid(manifest, version)


def test_a_field_that_kubernetes_would_drop_is_refused() -> None:
    wrong = KubernetesOptions(tolerations=[{"key": "spot", "efect": "NoSchedule"}])
    with pytest.raises(ConfigError, match="efect"):
        list(rendered(ExecutorOptions(kubernetes=wrong)))


def test_definitions_are_those_of_the_installed_operator() -> None:
    """`make crds` copies them."""
    names = [path.name for path in definitions().glob("*.yaml")]
    same, other, missing = filecmp.cmpfiles(definitions(), DEPLOY / "operator/crds", names, shallow=False)
    assert (len(same), other, missing) == (4, [], [])


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip
SELINUX = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe")


def unrestricted(spec: dict[str, Any], annotations: dict[str, str] | None = None) -> list[str]:
    """Which controls of the Pod Security profile `restricted` a pod does not keep: all that are published, as of Kubernetes 1.34.

    (kubernetes.io/docs/concepts/security/pod-security-standards)
    """
    pod = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    found += [f"volume {v['name']}" for v in spec.get("volumes", ()) if not (v.keys() - {"name"}) <= VOLUMES]
    found += [f"sysctl {each['name']}" for each in pod.get("sysctls", ()) if each["name"] not in SYSCTLS]
    for key, value in (annotations or {}).items():
        if key.startswith("container.apparmor.security.beta.kubernetes.io/") and not (
            value in ("", "runtime/default") or value.startswith("localhost/")
        ):
            found.append("AppArmor annotation")
    containers = [
        each for kind in ("containers", "initContainers", "ephemeralContainers") for each in spec.get(kind, ())
    ]
    for name, own in [("pod", pod), *((each["name"], each.get("securityContext", {})) for each in containers)]:
        linux = own.get("seLinuxOptions", {})
        kept = {
            "hostProcess": not own.get("windowsOptions", {}).get("hostProcess"),
            "appArmorProfile": own.get("appArmorProfile", {}).get("type") in (None, "RuntimeDefault", "Localhost"),
            "seLinuxOptions": linux.get("type", "") in SELINUX and not linux.get("user") and not linux.get("role"),
            "seccompProfile": own.get("seccompProfile", {}).get("type") in (None, "RuntimeDefault", "Localhost"),
            "runAsUser": own.get("runAsUser") != 0,
        }
        found += [f"{name}: {key}" for key, is_kept in kept.items() if not is_kept]
    for each in containers:
        own = each.get("securityContext", {})
        both = {**pod, **own}
        drops = own.get("capabilities", {})
        calls = [each.get(key, {}) for key in HANDLERS] + list(each.get("lifecycle", {}).values())
        kept = {
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "seccompProfile": bool(both.get("seccompProfile")),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": "ALL" in drops.get("drop", ()) and set(drops.get("add", ())) <= {"NET_BIND_SERVICE"},
            "privileged": not own.get("privileged"),
            "procMount": own.get("procMount") in (None, "Default"),
            "hostPort": not any(port.get("hostPort") for port in each.get("ports", ())),
            "host of a probe": not any(
                call.get(how, {}).get("host") for call in calls for how in ("httpGet", "tcpSocket")
            ),
        }
        found += [f"{each['name']}: {key}" for key, is_kept in kept.items() if not is_kept]
    return found


def test_all_pods_keep_the_restricted_profile_and_carry_no_token() -> None:
    specs = [spec for options in (ExecutorOptions(), MUCH) for each in rendered(options) for spec in pods(each)]
    assert len(specs) == 10
    for spec in specs:
        assert unrestricted(spec) == []
        assert spec["automountServiceAccountToken"] is False
    (operator,) = [each for each in kustomized(DEPLOY / "operator") if each["kind"] == "Deployment"]
    assert unrestricted(operator["spec"]["template"]["spec"]) == []
    for spec in [*specs, operator["spec"]["template"]["spec"]]:
        assert all(each["securityContext"]["readOnlyRootFilesystem"] for each in spec["containers"])


@pytest.mark.parametrize(
    ("of_pod", "of_container", "expected"),
    [
        ({"hostNetwork": True}, {}, "hostNetwork"),
        ({"hostPID": True}, {}, "hostPID"),
        ({"hostIPC": True}, {}, "hostIPC"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, {}, "volume v"),
        ({"volumes": [{"name": "v", "nfs": {"server": "a", "path": "/"}}]}, {}, "volume v"),
        ({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, {}, "sysctl kernel.msgmax"),
        ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, {}, "pod: hostProcess"),
        ({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, {}, "pod: appArmorProfile"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, {}, "pod: seccompProfile"),
        ({"securityContext": {"runAsUser": 0}}, {}, "pod: runAsUser"),
        ({}, {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, "c: seLinuxOptions"),
        ({}, {"securityContext": {"seLinuxOptions": {"user": "root"}}}, "c: seLinuxOptions"),
        ({}, {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "c: seccompProfile"),
        ({}, {"securityContext": {"runAsUser": 0}}, "c: runAsUser"),
        ({}, {"securityContext": {"runAsNonRoot": False}}, "c: runAsNonRoot"),
        ({}, {"securityContext": {"allowPrivilegeEscalation": None}}, "c: allowPrivilegeEscalation"),
        ({}, {"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}, "c: capabilities"),
        ({}, {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["SYS_TIME"]}}}, "c: capabilities"),
        ({}, {"securityContext": {"privileged": True}}, "c: privileged"),
        ({}, {"securityContext": {"procMount": "Unmasked"}}, "c: procMount"),
        ({}, {"ports": [{"containerPort": 1, "hostPort": 1}]}, "c: hostPort"),
        ({}, {"livenessProbe": {"httpGet": {"port": 1, "host": "elsewhere"}}}, "c: host of a probe"),
        ({}, {"lifecycle": {"preStop": {"tcpSocket": {"port": 1, "host": "elsewhere"}}}}, "c: host of a probe"),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers", "ephemeralContainers"])
def test_what_is_not_restricted_is_seen(
    kind: str, of_pod: dict[str, Any], of_container: dict[str, Any], expected: str
) -> None:
    """Each control of the profile, broken in a pod that keeps it."""
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    whole = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "c", "securityContext": own}
    assert unrestricted({kind: [container], "securityContext": whole}) == []
    container |= {**of_container, "securityContext": own | of_container.get("securityContext", {})}
    pod = {kind: [container], **of_pod, "securityContext": whole | of_pod.get("securityContext", {})}
    assert unrestricted(pod) == [expected]
    assert unrestricted({}, {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"})


def test_the_launchers_role_is_what_doctor_asks_for_and_no_more() -> None:
    (role,) = [
        each
        for each in kustomized(DEPLOY / "overlays/dev")
        if each["kind"] == "Role" and each["metadata"]["name"] == "pipelines-launcher"
    ]
    given = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given - {("kubernetes.dask.org", "daskautoscalers", "list")} == {
        (group, resource, verb) for group, resource, verbs in NEEDED for verb in verbs
    }


def test_overlays_do_not_use_what_breaks_dask_kinds() -> None:
    for path in DEPLOY.rglob("kustomization.yaml"):
        assert not {"namePrefix", "nameSuffix", "configMapGenerator"} & yaml.safe_load(path.read_text()).keys()


@pytest.fixture
def config(project: Path) -> Path:
    (project / "data").mkdir()
    (project / "data/a.csv").write_text("x\n1\n2\n")
    (project / "mine.py").write_text("import other\n\ndef double(x: int) -> int:\n    return other.twice(x)\n")
    (project / "other.py").write_text("def twice(x: int) -> int:\n    return 2 * x\n")
    path = project / "config.yaml"
    path.write_text(
        "name: t\nsteps:\n  a: {read: data/*.csv}\n  w: {write: out.parquet}\n  m: {map: {function: mine:double, items: [1]}}\n"
    )
    return path


def test_what_travels_is_the_same_project_elsewhere(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config, modules, files and their times; unpacked under the same path, the plan is the same."""
    overlay = config.parent.parent / f"{config.parent.name}-over.yaml"
    overlay.write_text("description: over\n")
    before = load(config, {}, [overlay])
    packed = bundle.packed(before.spec, [overlay], ["p=1"], versions())
    assert bundle.listed(packed)[1:] == [f"runs/.overlays/0/{overlay.name}", "data/a.csv", "mine.py", "other.py"]
    identities = {name: node.identity for name, node in before.plan().nodes.items()}
    shutil.rmtree(config.parent)
    order = bundle.unpacked(packed)
    assert order.args == ("config.yaml", "--overlay", f"runs/.overlays/0/{overlay.name}", "-p", "p=1")
    after = load(config, {}, [config.parent / order.args[2]])
    assert {name: node.identity for name, node in after.plan().nodes.items()} == identities


def test_what_is_too_large_for_a_config_map_is_refused(config: Path) -> None:
    (config.parent / "data/b.csv").write_bytes(b"x\n" + os.urandom(1_200_000).hex().encode())
    with pytest.raises(ConfigError, match=r"more than a ConfigMap holds; the largest is data/b\.csv"):
        bundle.packed(load(config).spec, [], [], {})


def test_paths_that_pods_do_not_reach_are_refused_with_what_to_do(
    config: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "b.csv"
    outside.write_text("x\n1\n")
    config.write_text(
        f"steps:\n  a: {{read: {outside}}}\n  b: {{read: {{path: data/a.csv, bad_rows: drop}}, checkpoint: disk}}\n"
    )
    assert main(["check", str(config)]) == 0
    capsys.readouterr()
    assert main(["check", "--executor", "kubernetes", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"config.yaml:2:3: {outside} is outside of the project: Kubernetes' workers do not see it" in said
    assert f"volumes: {{{outside.parent}: {{persistentVolumeClaim: {{claimName: NAME}}}}}}" in said
    assert "config.yaml:3:3: the step 'b' notes bad rows in the run's folder" in said
    assert "the step 'b' is kept in the store runs/.store, which Kubernetes' workers do not see" in said
    volumes = f"{{{outside.parent}: {{emptyDir: {{}}}}, {config.parent}/runs: {{emptyDir: {{}}}}}}"
    config.write_text(config.read_text() + f"executor: {{kind: kubernetes, kubernetes: {{volumes: {volumes}}}}}\n")
    assert main(["check", str(config)]) == 0
    assert main(["run", str(config), "--executor", "kubernetes", "--overlay", "/dev/null"]) == 2  # an empty overlay


def test_input_that_is_too_large_to_travel_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.k8s.reach.TRAVELS", 4)
    with pytest.raises(ConfigError, match=r"the input has 6 B, more than travels to Kubernetes \(4 B\): data/a\.csv"):
        load(config).run("kubernetes")


def test_render_shows_what_a_run_makes(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "render", str(config), "--image", "mine:1", "--archive"]) == 0
    made, archive = yaml.safe_load_all(capsys.readouterr().out)
    assert made["kind"] == "DaskJob"
    assert {container["image"] for spec in pods(made) for container in spec["containers"]} == {"mine:1"}
    assert archive["metadata"]["name"] == made["metadata"]["name"]
    for version in VERSIONS:
        valid(archive, version)


def test_options_of_kubernetes_have_places(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("executor: {kind: kubernetes, kubernetes: {imag: x, cpu: much}}\n" + config.read_text())
    assert main(["check", str(config)]) == 2
    said = capsys.readouterr().err
    assert "config.yaml:1:43: unknown option 'kubernetes.imag'" in said
    assert "did you mean 'image'?" in said
    assert "has no meaning" not in said
    assert "config.yaml:1:57: `kubernetes.cpu` must be a text of the form below, not 'much'" in said


def test_pods_import_only_what_the_image_has() -> None:
    """The image has the extras k8s and s3, not those for development."""
    for path in (ROOT / "pipelines/k8s").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {"kubernetes_validate", "duckdb", "moto"} & set(names), path
