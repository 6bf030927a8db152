"""What a pod asks of its node: the spec as the kubelet reads it, and what may be referred to in it. Pure.

A pod's JSON comes from whoever may create pods, and its names become paths, its mounts become arguments: what
could leave the place that it is given (a slash, a "..", a newline, a colon in a mount) is refused at decoding,
with the field named. Resource requests, security contexts and images are accepted and have no meaning here.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kubeproxy.controllers.objects import Condition, ContainerPort, Meta, Shape, check_identity
from kubeproxy.lab.probes import ExecAction, ProbeSpec
from kubeproxy.model.decode import DecodeError
from kubeproxy.model.names import is_label

DEFAULT_GRACE_SECONDS = 30

_FILE = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*", re.ASCII)
_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")


class KeyReference(Shape, frozen=True, kw_only=True):
    """configMapKeyRef and its like."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class FieldReference(Shape, frozen=True, kw_only=True):
    """fieldRef."""

    field_path: str = ""


class EnvSource(Shape, frozen=True, kw_only=True):
    """env[].valueFrom; a source that is none of these is refused when the container starts."""

    field_ref: FieldReference | None = None
    config_map_key_ref: KeyReference | None = None


class EnvVar(Shape, frozen=True, kw_only=True):
    """env[]."""

    name: str
    value: str | None = None
    value_from: EnvSource | None = None


class Mount(Shape, frozen=True, kw_only=True):
    """volumeMounts[]."""

    name: str
    mount_path: str
    sub_path: str | None = None


class Sleep(Shape, frozen=True, kw_only=True):
    """lifecycle.preStop.sleep."""

    seconds: int = 0


class Hook(Shape, frozen=True, kw_only=True):
    """lifecycle.preStop, of which a sleep and a command are run."""

    sleep: Sleep | None = None
    exec: ExecAction | None = None


class Lifecycle(Shape, frozen=True, kw_only=True):
    """lifecycle."""

    pre_stop: Hook | None = None


class ContainerSpec(Shape, frozen=True, kw_only=True):
    """containers[] and initContainers[]."""

    name: str
    image: str = ""
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str | None = None
    env: tuple[EnvVar, ...] | None = None
    ports: tuple[ContainerPort, ...] | None = None
    volume_mounts: tuple[Mount, ...] | None = None
    startup_probe: ProbeSpec | None = None
    readiness_probe: ProbeSpec | None = None
    liveness_probe: ProbeSpec | None = None
    lifecycle: Lifecycle | None = None

    @property
    def is_responder(self) -> bool:
        """Whether nothing is said about what to run, so that the lab's responder answers on its ports."""
        return not self.command and not self.args

    def port_number(self, port: int | str) -> int | None:
        """Resolve a probe's port: a number, or the name of one of the container's ports."""
        if isinstance(port, int) or (port.isascii() and port.isdigit()):
            return int(port)
        return next((each.container_port for each in self.ports or () if each.name == port), None)


class KeyPath(Shape, frozen=True, kw_only=True):
    """configMap.items[]."""

    key: str
    path: str


class ConfigMapSource(Shape, frozen=True, kw_only=True):
    """volumes[].configMap."""

    name: str = ""
    items: tuple[KeyPath, ...] | None = None
    optional: bool | None = None


class HostPath(Shape, frozen=True, kw_only=True):
    """volumes[].hostPath."""

    path: str


class Volume(Shape, frozen=True, kw_only=True):
    """volumes[]; a kind that is none of these is refused when a container mounts it."""

    name: str
    config_map: ConfigMapSource | None = None
    empty_dir: dict[str, Any] | None = None
    host_path: HostPath | None = None


class DnsOption(Shape, frozen=True, kw_only=True):
    """dnsConfig.options[]."""

    name: str
    value: str | None = None


class DnsConfig(Shape, frozen=True, kw_only=True):
    """dnsConfig."""

    nameservers: tuple[str, ...] | None = None
    searches: tuple[str, ...] | None = None
    options: tuple[DnsOption, ...] | None = None


class HostAlias(Shape, frozen=True, kw_only=True):
    """hostAliases[]."""

    ip: str
    hostnames: tuple[str, ...] | None = None


class Spec(Shape, frozen=True, kw_only=True):
    """spec."""

    node_name: str = ""
    host_network: bool | None = None
    hostname: str | None = None
    subdomain: str | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig | None = None
    host_aliases: tuple[HostAlias, ...] | None = None
    restart_policy: str = "Always"
    service_account_name: str | None = None
    termination_grace_period_seconds: int | None = None
    containers: tuple[ContainerSpec, ...] = ()
    init_containers: tuple[ContainerSpec, ...] | None = None
    volumes: tuple[Volume, ...] | None = None


class PreviousContainer(Shape, frozen=True, kw_only=True):
    """What an adopting kubelet takes over from status.containerStatuses[]."""

    name: str = ""
    ready: bool = False


class Previous(Shape, frozen=True, kw_only=True):
    """What an adopting kubelet takes over from status."""

    phase: str | None = None
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[PreviousContainer, ...] | None = None


class LabPod(Shape, frozen=True, kw_only=True):
    """A Pod as its node reads it."""

    metadata: Meta
    spec: Spec
    status: Previous = Previous()

    @property
    def grace_seconds(self) -> int:
        """How long its processes have to end, once told to."""
        asked = self.metadata.deletion_grace_period_seconds
        if asked is None:
            asked = self.spec.termination_grace_period_seconds
        return DEFAULT_GRACE_SECONDS if asked is None else max(0, asked)

    @property
    def all_containers(self) -> Iterator[ContainerSpec]:
        """Init containers, then containers."""
        yield from self.spec.init_containers or ()
        yield from self.spec.containers


_DECODER = msgspec.json.Decoder(LabPod)


def decode_lab_pod(data: bytes) -> LabPod:
    """Decode a Pod and check every name that will become a path or an argument."""
    try:
        pod = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from None
    check_identity(pod.metadata)
    names = [each.name for each in pod.all_containers]
    _require(len(set(names)) == len(names), "spec.containers", "two have one name")
    _require(bool(pod.spec.containers), "spec.containers", "there is none")
    for container in pod.all_containers:
        _check_container(container)
    for volume in pod.spec.volumes or ():
        _check_volume(volume)
    for name in (pod.spec.hostname, pod.spec.subdomain):
        _require(not name or is_label(name), "spec.hostname", "is no DNS label")
    return pod


def _require(holds: bool, field: str, complaint: str) -> None:
    if not holds:
        raise DecodeError(f"{field}: {complaint}")


def _check_container(container: ContainerSpec) -> None:
    _require(is_label(container.name), "spec.containers[].name", "is no DNS label")
    for port in container.ports or ():
        _require(0 < port.container_port < 65536, "containerPort", "is no port")
        _require(port.protocol in ("TCP", "UDP", "SCTP"), "ports[].protocol", "is none of TCP, UDP, SCTP")
    for variable in container.env or ():
        _require(_VARIABLE.fullmatch(variable.name) is not None, "env[].name", "is no variable's name")
    for mount in container.volume_mounts or ():
        path = mount.mount_path
        plain = path.startswith("/") and ":" not in path and path.isprintable() and posixpath.normpath(path) != "/"
        _require(plain and ".." not in path.split("/"), "mountPath", "is no plain absolute path")
        _require(not mount.sub_path or is_inside(mount.sub_path), "subPath", "leaves its volume")
    texts = [*(container.command or ()), *(container.args or ()), container.working_dir or ""]
    _require(all("\0" not in text for text in texts), "command", "holds a null byte")


def _check_volume(volume: Volume) -> None:
    _require(is_label(volume.name), "volumes[].name", "is no DNS label")
    if volume.config_map is not None:
        for item in volume.config_map.items or ():
            _require(is_inside(item.path), "configMap.items[].path", "leaves its volume")
    if volume.host_path is not None:
        path = volume.host_path.path
        _require(path.startswith("/") and ":" not in path, "hostPath.path", "is no plain absolute path")


def is_inside(path: str) -> bool:
    """Say whether a relative path of plain file names stays below where it starts."""
    parts = path.split("/")
    return all(_FILE.fullmatch(part) is not None and part not in (".", "..") for part in parts)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does: unknown names stay as they are, `$$` is a dollar sign."""

    def replaced(found: "re.Match[str]") -> str:
        if found[1] == "$":
            return "$"
        return values.get(found[2], found[0])

    return _REFERENCE.sub(replaced, text)


def field_value(pod: LabPod, path: str, *, address: str, host_ip: str) -> str | None:
    """Return what a fieldRef means, or None when it is a field that nobody can refer to."""
    meta = pod.metadata
    plain = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name or "default",
        "status.podIP": address,
        "status.podIPs": address,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path in plain:
        return plain[path]
    for prefix, values in (("metadata.labels", meta.labels), ("metadata.annotations", meta.annotations)):
        if path.startswith(f"{prefix}['") and path.endswith("']"):
            return (values or {}).get(path[len(prefix) + 2 : -2], "")
    return None


def config_maps(pod: LabPod) -> dict[str, bool]:
    """Return the ConfigMaps that the pod refers to, and whether it can do without."""
    found: dict[str, bool] = {}
    sources: list[tuple[str, bool | None]] = [
        (volume.config_map.name, volume.config_map.optional)
        for volume in pod.spec.volumes or ()
        if volume.config_map is not None
    ]
    for container in pod.all_containers:
        for variable in container.env or ():
            reference = variable.value_from.config_map_key_ref if variable.value_from else None
            if reference is not None:
                # A missing variable is told where the container starts.
                sources.append((reference.name, True))
    for name, optional in sources:
        found[name] = bool(optional) and found.get(name, True)
    return found
