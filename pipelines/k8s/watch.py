"""A run's pods: waiting for them with a deadline, and what is wrong with them, in their own words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from pipelines.errors import Issue, MachineError
from pipelines.k8s.api import ApiError, Kube, Object
from pipelines.k8s.manifests import RUN

CLUSTER, COMPONENT = "dask.org/cluster-name", "dask.org/component"
_OPERATOR_SECONDS = 20
_PULL_SECONDS = 20
"""A registry may fail once."""
_DEATHS = 3
"""So often one pod may run out of memory before it is of use, or crash."""
_GONE_SECONDS = 120
_NOW = (
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
)
_PULL = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable")
_IMAGE = (
    "build the image and put it where the nodes find it, or name another with `executor.kubernetes.image` (--image)"
)


class State(Struct, frozen=True):
    """What the pods of one cluster are up to."""

    pods: Sequence[Object]
    events: Sequence[Object]

    def of(self, component: str) -> list[Object]:
        return [pod for pod in self.pods if pod["metadata"]["labels"].get(COMPONENT) == component]

    def fatal(self) -> Issue | None:
        """What will not mend itself."""
        for pod in self.pods:
            for issue in _fatal(pod):
                return issue
        for event in self.events:
            # a quota may be freed by another run's end, anything else is not there
            if event.get("reason") == "FailedCreate" and "exceeded quota" not in event["message"]:
                return Issue(f"a pod is not let in: {event['message']}", "make deploy, or see `pipelines k8s doctor`")
        return None

    def starved(self) -> Issue | None:
        """A worker that runs out of memory again and again."""
        for pod in self.of("worker"):
            for each in pod["status"].get("containerStatuses", ()):
                if _starved(each) and each.get("restartCount", 0) >= _DEATHS:
                    what = f"the pod {pod['metadata']['name']} was OOMKilled {each['restartCount']} times: it took more memory than its limit"
                    return Issue(what, "raise executor.memory_limit")
        return None

    def oom_killed(self) -> set[str]:
        """The names of workers' pods that ran out of memory last."""
        return {pod["metadata"]["name"] for pod in self.of("worker") if _any_starved(pod)}

    def starved_at(self, address: str) -> bool:
        """Whether the pod with this address ran out of memory last."""
        return any(pod["status"].get("podIP") == address and _any_starved(pod) for pod in self.of("worker"))

    def waiting(self) -> Iterator[Issue]:
        """What may mend itself, and did not until the deadline."""
        for event in reversed(self.events):
            if event.get("reason") == "FailedCreate":
                yield Issue(f"a pod is not let in: {event['message']}", "ask for less (workers, memory_limit, cpu), or have the quota raised")  # fmt: skip
                return
        for pod in self.pods:
            name = pod["metadata"]["name"]
            for condition in pod["status"].get("conditions", ()):
                if condition["type"] == "PodScheduled" and condition["status"] == "False":
                    yield Issue(f"no node takes the pod {name}: {condition.get('message', condition.get('reason'))}", "ask for less (memory_limit, cpu), add nodes, or see node_selector and tolerations")  # fmt: skip
            for status in pod["status"].get("containerStatuses", ()):
                if reason := status["state"].get("waiting", {}).get("reason"):
                    yield Issue(f"the pod {name} waits: {reason}", "kubectl describe pod says why")

    def told(self) -> tuple[str, ...]:
        """The last warnings among the events."""
        warnings = [event for event in self.events if event.get("type") == "Warning"]
        lines = (f"{e['involvedObject']['name']}: {e['reason']}: {e['message']}" for e in warnings[-6:])
        return tuple(dict.fromkeys(lines))


def _ended(status: Object) -> Object:
    """How a container ended last."""
    found: Object = status["state"].get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return found


def _starved(status: Object) -> bool:
    return _ended(status).get("reason") == "OOMKilled"


def _any_starved(pod: Object) -> bool:
    return any(_starved(each) for each in pod["status"].get("containerStatuses", ()))


def _fatal(pod: Object) -> Iterator[Issue]:
    name, status = pod["metadata"]["name"], pod["status"]
    role = pod["metadata"]["labels"].get(COMPONENT, "")
    if status.get("phase") == "Failed" and status.get("reason") == "Evicted":
        if role != "worker":
            yield Issue(f"the pod {name} was evicted: {status.get('message', '')}", "run again; a node was short of memory or disk")  # fmt: skip
        return
    for each in status.get("containerStatuses", ()):
        waiting = each["state"].get("waiting") or {}
        last = _ended(each)
        restarts = each.get("restartCount", 0)
        reason, said = waiting.get("reason"), waiting.get("message", "")
        if reason in _NOW:
            remedy = _IMAGE if "Image" in str(reason) else "make the Secret or ConfigMap that it names"
            yield Issue(f"the pod {name} cannot start: {reason}: {said}", remedy)
        elif reason in _PULL and _age(pod) > _PULL_SECONDS:
            yield Issue(
                f"the pod {name} cannot start: its image {each['image']} is not pulled: {reason}: {said}", _IMAGE
            )
        elif last.get("reason") == "OOMKilled":
            if role != "worker":  # of workers whoever drives the run knows what they were at
                yield Issue(f"the pod {name} was OOMKilled: it took more memory than its limit", "raise executor.kubernetes.scheduler_memory")  # fmt: skip
        elif reason == "CrashLoopBackOff" and restarts >= _DEATHS:
            yield Issue(f"the pod {name} crashes again and again (exit code {last.get('exitCode')})", f"kubectl logs --previous {name} says why")  # fmt: skip


def _age(pod: Object) -> float:
    created = time.strptime(pod["metadata"]["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
    return time.time() - (time.mktime(created) - time.timezone)


class Watch:
    """The pods of the DaskCluster `name`."""

    def __init__(self, kube: Kube, name: str, *, start_timeout: float) -> None:
        self.kube, self.name = kube, name
        self.began, self.start_timeout = time.monotonic(), start_timeout

    def state(self) -> State:
        return State(self.kube.all("Pod", {CLUSTER: self.name}), self.kube.events(self.name))

    def check(self) -> State:
        """Raises MachineError when something will not mend itself."""
        state = self.state()
        if issue := state.fatal():
            raise self.failed(state, issue)
        return state

    def failed(self, state: State, *issues: Issue) -> MachineError:
        error = MachineError(*issues)
        error.notes = state.told()
        return error

    def until(self, ready: Callable[[State], bool], what: str) -> State:
        """Waits until the pods are so. Raises MachineError when they will not be, or are not within the start timeout."""
        while True:
            state = self.check()
            if ready(state):
                return state
            if issue := state.starved():
                raise self.failed(state, issue)
            passed = time.monotonic() - self.began
            if not state.pods and not state.events and passed > _OPERATOR_SECONDS:
                raise self.failed(state, Issue(f"no operator acts on {self.name}: {_OPERATOR_SECONDS} s have passed and nothing was made", "make deploy; then kubectl logs --namespace pipelines-system deployment/pipelines-operator"))  # fmt: skip
            if passed > self.start_timeout:
                causes = list(state.waiting()) or [Issue("its pods do not say why", "kubectl describe pod says more")]
                first = causes[0]
                raise self.failed(
                    state, Issue(f"{what} within {self.start_timeout:g} s: {first.message}", first.remedy)
                )
            time.sleep(0.5)

    def scheduler(self) -> Object:
        """The scheduler's pod, once it is ready."""
        state = self.until(lambda state: any(map(is_ready, state.of("scheduler"))), "the scheduler did not start")
        return next(pod for pod in state.of("scheduler") if is_ready(pod))


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def left(kube: Kube, name: str) -> list[str]:
    """What is there of a run or a cluster, as kind/name."""
    found = list[str]()
    for kind in ("DaskJob", "DaskCluster", "DaskWorkerGroup", "ConfigMap", "Service", "Pod"):
        for key in (RUN, CLUSTER):
            found += [f"{kind}/{each['metadata']['name']}" for each in kube.all(kind, {key: name})]
    return list(dict.fromkeys(found))


def _hurry(kube: Kube, name: str) -> None:
    """Pods that nothing makes anew now need not hand over what they hold; a driver at work may end in order."""
    for pod in kube.all("Pod", {CLUSTER: name}):
        at_work = pod["metadata"]["labels"].get(COMPONENT) == "job-runner" and pod["status"].get("phase") == "Running"
        if "deletionTimestamp" in pod["metadata"] and pod["metadata"]["deletionGracePeriodSeconds"] > 1 and not at_work:
            kube.delete("Pod", pod["metadata"]["name"], seconds=1)


def remove(kube: Kube, name: str, seconds: float = _GONE_SECONDS) -> None:
    """Deletes a run's objects and waits until all are gone. Raises MachineError when they do not go."""
    for kind in ("DaskJob", "DaskCluster", "ConfigMap"):
        try:
            kube.delete(kind, name)
        except ApiError as error:
            if error.status != 404:
                raise
    deadline = time.monotonic() + seconds
    while there := left(kube, name):
        _hurry(kube, name)
        if time.monotonic() > deadline:
            shown = ", ".join(there[:5])
            raise MachineError(Issue(f"still there after {seconds:g} s: {shown}", f"is the operator alive? Then: pipelines k8s cleanup {name}"))  # fmt: skip
        time.sleep(0.25)
