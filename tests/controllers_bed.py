"""Services, pods and Endpoints for the endpoint controllers' tests, and a client that counts and fails."""

import asyncio
import contextlib

import msgspec

from kubeproxy.clock import SystemClock
from kubeproxy.controllers.manager import run_endpoint_controllers
from kubeproxy.controllers.objects import Pod, Service
from kubeproxy.store.base import Unavailable
from kubeproxy.store.kube import ApiError, KubeClient
from kubeproxy.store.resources import ENDPOINT_SLICES, ENDPOINTS, PODS
from tests.apiserver_bed import api_bed

HTTP = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"}


def service(ports=(HTTP,), labels=None, annotations=None, **spec):
    """Build a Service of the planners."""
    body = {
        "selector": {"app": "a"},
        "clusterIP": "10.96.0.9",
        "ipFamilies": ["IPv4"],
        "ports": list(ports),
        **spec,
    }
    meta = {"name": "svc", "namespace": "ns", "uid": "u-svc", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return msgspec.convert({"metadata": {**meta, "labels": labels}, "spec": body}, Service)


def pod(name, ip="10.244.0.1", *, ready=True, port=8080, leaving=False, phase="Running", **spec):
    """Build a Pod of the planners."""
    meta = {"name": name, "namespace": "ns", "uid": f"u-{name}", "labels": {"app": "a"}}
    if leaving:
        meta["deletionTimestamp"] = "2026-01-01T00:00:09Z"
    container = {"name": "c", "ports": [{"name": "web", "containerPort": port, "protocol": "TCP"}]}
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "lastTransitionTime": "2026-01-01T00:00:05Z",
    }
    ips = [{"ip": each} for each in ([ip] if isinstance(ip, str) else ip)]
    status = {"phase": phase, "conditions": [condition], "podIP": ips[0]["ip"] if ips else "", "podIPs": ips}
    return msgspec.convert(
        {
            "metadata": meta,
            "spec": {"nodeName": "n1", "containers": [container], **spec},
            "status": status,
        },
        Pod,
    )


def service_body(name="web", **spec):
    """Return a Service as a request makes it."""
    return {
        "metadata": {"name": name},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}], **spec},
    }


async def make_pod(client, name, ip, *, labels=None):
    """Create a pod that is ready."""
    body = {
        "metadata": {"name": name, "labels": labels or {"app": "a"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]},
    }
    await client.create(PODS, "default", body)
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    await client.patch(PODS, "default", name, {"status": status}, subresource="status")


async def slices_of(client, name):
    """Return the slices of a Service."""
    listing = await client.list(
        ENDPOINT_SLICES, namespace="default", label_selector=f"kubernetes.io/service-name={name}"
    )
    return [msgspec.json.decode(item) for item in listing.items]


def addresses(slices):
    """Return all endpoints' addresses."""
    return sorted(e["addresses"][0] for each in slices for e in each.get("endpoints") or ())


async def endpoints_of(client, name):
    """Return the Endpoints of a Service, or None."""
    try:
        return await client.get(ENDPOINTS, "default", name)
    except ApiError as error:
        if error.code != 404:
            raise
        return None


class FailingClient(KubeClient):
    """A client whose ``fate`` is asked about each write: what it answers happens instead, or ("lost") after it."""

    def __init__(self, server):
        super().__init__(server)
        self.fate = lambda method, path: None
        self.written = []
        self.refused = []
        self.shown = asyncio.Event()
        """While it is clear, watches of what the controllers write say nothing."""
        self.shown.set()

    async def _request(self, method, path, **options):
        what = None
        if method != "GET":
            self.written.append((method, path))
            what = self.fate(method, path)
        if what == "away":
            raise Unavailable("connection refused")
        if what in (404, 409):
            raise ApiError(what, "", "raced")
        try:
            answer = await super()._request(method, path, **options)
        except ApiError as error:
            self.refused.append((method, path, error.code))
            raise
        if what == "lost":
            raise Unavailable("connection reset")
        return answer

    async def watch(self, resource, revision, **options):
        async for event in super().watch(resource, revision, **options):
            if resource in (ENDPOINT_SLICES, ENDPOINTS):
                await self.shown.wait()
            yield event


@contextlib.asynccontextmanager
async def endpoint_controllers(url):
    """Run the endpoint controllers against an API server; yield their client."""
    async with FailingClient(url) as client:
        work = run_endpoint_controllers(client, clock=SystemClock(), endpoints_rest=0.02)
        running = asyncio.create_task(work)
        try:
            yield client
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


@contextlib.asynccontextmanager
async def api():
    """Yield the URL of an API server without controllers, and a client of it."""
    async with api_bed() as bed:
        url = str(bed.client.make_url("")).rstrip("/")
        async with KubeClient(url) as client:
            yield url, client
