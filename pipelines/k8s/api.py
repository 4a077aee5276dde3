"""One Kubernetes API server, called with deadlines; what it refuses is a MachineError that says what to do."""

from __future__ import annotations

import json
import logging
import queue
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any

import anyio
import httpx
import kr8s.asyncio
from anyio.from_thread import start_blocking_portal
from kr8s.asyncio.objects import Pod
from kr8s.asyncio.portforward import PortForward

from pipelines.errors import Issue, MachineError

Object = dict[str, Any]
SECONDS = 15
"""For one answer of the API server."""
DASK = "kubernetes.dask.org/v1"
KINDS = {
    "ConfigMap": ("v1", "configmaps"),
    "Event": ("v1", "events"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "Pod": ("v1", "pods"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "Deployment": ("apps/v1", "deployments"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "SelfSubjectAccessReview": ("authorization.k8s.io/v1", "selfsubjectaccessreviews"),
    "DaskAutoscaler": (DASK, "daskautoscalers"),
    "DaskCluster": (DASK, "daskclusters"),
    "DaskJob": (DASK, "daskjobs"),
    "DaskWorkerGroup": (DASK, "daskworkergroups"),
}
_CLUSTER_WIDE = ("SelfSubjectAccessReview",)


class ApiError(MachineError):
    """What the API server answered; `status` is HTTP's, 0 when it did not answer."""

    def __init__(self, status: int, issue: Issue) -> None:
        super().__init__(issue)
        self.status = status


class Kube:
    """A connection to the API server that the kubeconfig's context names, or to the one around this pod."""

    namespace: str

    def __init__(self, context: str | None = None, namespace: str | None = None) -> None:
        self._context, self._asked = context, namespace
        self._stack = ExitStack()

    def __enter__(self) -> Kube:
        for name in ("httpx", "httpcore", "kr8s", "asyncio", "httpx_ws"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._portal = self._stack.enter_context(start_blocking_portal())
        try:
            self._api = self._call(self._connected, what="reach Kubernetes")
        except BaseException:
            self._stack.close()
            raise
        self.namespace = self._asked or self._api.auth.namespace
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    async def _connected(self) -> Any:
        with warnings.catch_warnings():  # of versions that kr8s has not been tried with
            warnings.simplefilter("ignore", UserWarning)
            return await kr8s.asyncio.api(context=self._context)

    @property
    def server(self) -> str:
        return str(self._api.auth.server)

    def all(self, kind: str, selector: Mapping[str, str] | None = None) -> list[Object]:
        labels = ",".join(f"{key}={value}" for key, value in (selector or {}).items())
        found: list[Object] = self._ask("GET", kind, params={"labelSelector": labels} if labels else {})["items"]
        return found

    def get(self, kind: str, name: str) -> Object | None:
        try:
            found: Object = self._ask("GET", kind, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def create(self, manifest: Object) -> Object:
        made: Object = self._ask("POST", manifest["kind"], body=manifest)
        return made

    def patch(self, kind: str, name: str, change: Object) -> Object:
        changed: Object = self._ask("PATCH", kind, name, body=change)
        return changed

    def delete(self, kind: str, name: str, seconds: int | None = None) -> bool:
        """Begins to delete it and what it owns; whether it was there. seconds: that a pod has to end by itself."""
        grace = {} if seconds is None else {"gracePeriodSeconds": seconds}
        try:
            self._ask("DELETE", kind, name, body={"propagationPolicy": "Background", **grace})
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether who asks may do this in the namespace; of a subresource: pods/log."""
        resource, _, sub = resource.partition("/")
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        return bool(self.create(review)["status"]["allowed"])

    def events(self, name: str) -> list[Object]:
        """What was told of the objects whose names begin so, in time."""
        found = [event for event in self.all("Event") if str(event["involvedObject"].get("name")).startswith(name)]
        return sorted(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def log(self, pod: str, lines: int | None = None) -> str:
        """What a pod has said so far; empty before it began."""
        params = {} if lines is None else {"tailLines": str(lines)}
        try:
            return str(self._ask("GET", "Pod", f"{pod}/log", params=params, text=True))
        except ApiError as error:
            if error.status in (400, 404):
                return ""
            raise

    @contextmanager
    def following(self, pod: str) -> Iterator[queue.SimpleQueue[str | None]]:
        """A queue of the lines that the pod says, from its first one on; None when it ended or the connection did."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        async def follow() -> None:
            url = f"pods/{pod}/log?follow=true"
            try:
                async with self._api.call_api(
                    "GET", namespace=self.namespace, url=url, stream=True, timeout=httpx.Timeout(SECONDS, read=None)
                ) as answer:
                    async for line in answer.aiter_lines():
                        lines.put(line)
            except (kr8s.ServerError, kr8s.APITimeoutError, httpx.HTTPError, OSError):
                pass  # the pod's state says what happened
            finally:
                lines.put(None)

        task = self._portal.start_task_soon(follow)
        try:
            yield lines
        finally:
            task.cancel()

    @contextmanager
    def forwarded(self, pod: Object, port: int, local: int | None = None) -> Iterator[int]:
        """A port of this machine that leads to a port of the pod."""
        made = self._portal.call(self._pod, pod)
        with ExitStack() as stack:
            yield self._listening(stack, made, port, local)

    def _listening(self, stack: ExitStack, made: Any, port: int, local: int | None) -> int:
        """The port, until the stack is closed. A free one that kr8s found may be taken when it comes to use it."""
        for left in range(4, -1, -1):
            forward: AbstractContextManager[int] = self._portal.wrap_async_context_manager(
                self._portal.call(self._forward, made, port, local)
            )
            try:
                return stack.enter_context(forward)
            except OSError as error:
                if local is not None or not left:
                    what = "cannot listen on " + ("a port" if local is None else f"port {local}")
                    raise MachineError(Issue(f"{what}: {error.strerror}", "choose another port")) from None
        raise AssertionError

    async def _pod(self, pod: Object) -> Any:
        return await Pod(pod, api=self._api)

    async def _forward(self, pod: Any, port: int, local: int | None) -> Any:
        return PortForward(pod, port, local or "auto")

    def _ask(
        self,
        method: str,
        kind: str,
        name: str = "",
        *,
        body: Object | None = None,
        params: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> Any:
        version, plural = KINDS[kind]
        what = f"{_VERBS[method]} {plural}" + (f" {name}" if name else "")

        async def ask() -> Any:
            options: dict[str, Any] = {"params": dict(params or {})}
            if body is not None:
                options["content"] = json.dumps(body)
                if method == "PATCH":
                    options["headers"] = {"Content-Type": "application/merge-patch+json"}
            async with self._api.call_api(
                method,
                version=version,
                namespace=None if kind in _CLUSTER_WIDE else self.namespace,
                url=f"{plural}/{name}" if name else plural,
                **options,
            ) as answer:
                return answer.text if text else answer.json()

        return self._call(ask, what=what)

    def _call(self, call: Any, *, what: str) -> Any:
        async def timely() -> Any:
            with anyio.fail_after(SECONDS):
                return await call()

        try:
            return self._portal.call(timely)
        except kr8s.ServerError as error:
            status = error.response.status_code if error.response is not None else 0
            raise ApiError(status, _refusal(status, str(error), what)) from None
        except (TimeoutError, kr8s.APITimeoutError):
            remedy = "see whether `kubectl get nodes` answers"
            raise ApiError(
                0, Issue(f"Kubernetes' API server did not answer in {SECONDS} s (to {what})", remedy)
            ) from None
        except (httpx.HTTPError, kr8s.ConnectionClosedError, OSError) as error:
            remedy = "see whether `kubectl get nodes` answers, and which cluster the context names"
            raise ApiError(0, Issue(f"cannot {what}: {str(error) or type(error).__name__}", remedy)) from None
        except (ValueError, KeyError) as error:
            remedy = "set KUBECONFIG, or choose with `kubectl config use-context` or `executor.kubernetes.context`"
            raise ApiError(0, Issue(f"no Kubernetes context: {error}", remedy)) from None


_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


def _refusal(status: int, said: str, what: str) -> Issue:
    if status == 401:
        return Issue("Kubernetes does not know who asks: the credentials are not valid", "log in again, then `kubectl get nodes`")  # fmt: skip
    if status == 403 and "exceeded quota" in said:
        return Issue(
            f"no quota for this: {said}", "ask for less (workers, memory_limit, cpu), or have the quota raised"
        )
    if status == 403:
        return Issue(f"forbidden to {what}: {said}", "bind the Role pipelines-launcher to who submits (make deploy); see `pipelines k8s doctor`")  # fmt: skip
    if status == 404 and ("could not find the requested resource" in said or "Client error" in said):
        return Issue(f"cannot {what}: this cluster does not know that kind", "make deploy (it installs Dask's definitions and operator)")  # fmt: skip
    if status == 404 and "namespaces" in said:
        return Issue(f"cannot {what}: {said}", "make deploy, or name another with `executor.kubernetes.namespace`")
    return Issue(f"cannot {what}: {said}", "see `pipelines k8s doctor`")
