"""A node's lease as the Kubernetes API holds it: spec.podCIDR, and annotations that flanneld writes. PURE.

The schema is flannel's (pkg/subnet/kube): a node whose annotation kube-subnet-manager is "true" has a lease of
its podCIDR, with the holder's address and the backend's data in annotations of one prefix. Any node may write
its own annotations, so nothing of them is used before it passed `node_lease`.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from flannel.lease import MAX_VALUE_BYTES, Lease, LeaseAttrs, LeaseError, host_address, make_attrs
from kubeproxy.model.decode import DecodeError
from kubeproxy.model.names import is_subdomain
from kubeproxy.model.timestamps import timestamp

DEFAULT_PREFIX = "flannel.alpha.coreos.com"

_PREFIX = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_-]+-)?", re.ASCII)
_LONGEST_SUBNET = 30
"""The first address of a subnet is the node's, and a pod needs another."""


class AnnotationNames(msgspec.Struct, frozen=True, kw_only=True):
    """The annotations' full names under one prefix."""

    managed: str
    backend_type: str
    backend_data: str
    public_ip: str
    public_ip_overwrite: str
    node_public_ip: str


def annotation_names(prefix: str) -> AnnotationNames:
    """Return the names under a prefix: `foo.bar` gives `foo.bar/public-ip`, `foo.bar/x` `foo.bar/x-public-ip`.

    Raises ValueError in flannel's words (its annotations.go).
    """
    if prefix.count("/") > 1:
        raise ValueError("prefix can contain at most single slash")
    stem = prefix if "/" in prefix else f"{prefix}/"
    if not stem.endswith(("/", "-")):
        stem += "-"
    if _PREFIX.fullmatch(stem) is None:
        raise ValueError("prefix must be in a format: fqdn/[0-9a-z-_]*")
    return AnnotationNames(
        managed=f"{stem}kube-subnet-manager",
        backend_type=f"{stem}backend-type",
        backend_data=f"{stem}backend-data",
        public_ip=f"{stem}public-ip",
        public_ip_overwrite=f"{stem}public-ip-overwrite",
        node_public_ip=f"{stem}node-public-ip",
    )


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What flanneld reads of a Node. Texts are as the API has them, cut where no lease is longer."""

    name: str
    pod_cidrs: tuple[str, ...] = ()
    managed: bool = False
    backend_type: str = ""
    backend_data: str = ""
    public_ip: str = ""
    public_ip_overwrite: str = ""
    node_public_ip: str = ""


class _Meta(msgspec.Struct):
    name: str = ""
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct):
    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")


class _Node(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


_NODE = msgspec.json.Decoder(_Node)


def decode_node_record(names: AnnotationNames, data: bytes) -> NodeRecord:
    """Decode a core/v1 Node. Raises `DecodeError` when it has no usable name."""
    try:
        raw = _NODE.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from None
    if not is_subdomain(raw.metadata.name):
        raise DecodeError(f"metadata.name: {raw.metadata.name[:80]!r} is no DNS subdomain")
    notes = raw.metadata.annotations or {}

    def text(name: str) -> str:
        return notes.get(name, "")[: MAX_VALUE_BYTES + 1]

    return NodeRecord(
        name=raw.metadata.name,
        pod_cidrs=tuple(raw.spec.pod_cidrs or ([raw.spec.pod_cidr] if raw.spec.pod_cidr else ())),
        managed=notes.get(names.managed) == "true",
        backend_type=text(names.backend_type),
        backend_data=text(names.backend_data),
        public_ip=text(names.public_ip),
        public_ip_overwrite=text(names.public_ip_overwrite),
        node_public_ip=text(names.node_public_ip),
    )


def pod_subnet(record: NodeRecord) -> IPv4Network | None:
    """Return a node's IPv4 podCIDR; None while nobody has given it one. Raises `LeaseError`."""
    if len(record.pod_cidrs) > 2:
        raise LeaseError(f"node {record.name!r} pod cidrs should be IPv4/IPv6 only or dualstack")
    found = [cidr for cidr in record.pod_cidrs if ":" not in cidr]
    if not found:
        if record.pod_cidrs:
            raise LeaseError(f"node {record.name!r} has no IPv4 pod cidr, and IPv6 is not built yet")
        return None
    try:
        subnet = IPv4Network(found[0], strict=False)
    except ValueError:
        raise LeaseError(f"node {record.name!r}: pod cidr {found[0][:64]!r} is no IPv4 network") from None
    if subnet.prefixlen > _LONGEST_SUBNET:
        raise LeaseError(f"node {record.name!r}: pod cidr {subnet} is too small to hold a pod")
    return subnet


def node_lease(record: NodeRecord) -> Lease | None:
    """Return the lease that a node published; None when it published none or has no podCIDR yet.

    Raises `LeaseError` for one that cannot be used.
    """
    subnet = pod_subnet(record) if record.managed else None
    if subnet is None:
        return None
    data = record.backend_data.encode()
    if len(data) > MAX_VALUE_BYTES:
        raise LeaseError(f"backend-data has more than {MAX_VALUE_BYTES} bytes")
    attrs = make_attrs(record.public_ip, record.backend_type, data)
    return Lease(subnet=subnet, attrs=attrs, key=record.name)


def published_attrs(record: NodeRecord, attrs: LeaseAttrs) -> LeaseAttrs:
    """Return what a node should publish: public-ip-overwrite wins over its own address. Raises `LeaseError`."""
    if not record.public_ip_overwrite:
        return attrs
    return msgspec.structs.replace(attrs, public_ip=host_address(record.public_ip_overwrite))


def given_address(record: NodeRecord) -> IPv4Address | None:
    """Return the annotation node-public-ip, which stands for the flag -public-ip. Raises `LeaseError`."""
    return host_address(record.node_public_ip) if record.node_public_ip else None


def is_published(record: NodeRecord, attrs: LeaseAttrs) -> bool:
    """Whether a node's annotations say exactly this."""
    said = (record.public_ip, record.backend_type, record.backend_data)
    return record.managed and said == (str(attrs.public_ip), attrs.backend_type, _data_text(attrs))


def lease_patch(names: AnnotationNames, attrs: LeaseAttrs) -> dict[str, Any]:
    """Return the strategic merge patch of nodes/status that publishes a lease."""
    annotations: Mapping[str, str] = {
        names.managed: "true",
        names.backend_type: attrs.backend_type,
        names.backend_data: _data_text(attrs),
        names.public_ip: str(attrs.public_ip),
    }
    return {"metadata": {"annotations": annotations}}


def _data_text(attrs: LeaseAttrs) -> str:
    return attrs.backend_data.decode() if attrs.backend_data else "null"


def network_available_patch(wall: float) -> dict[str, Any]:
    """Return the strategic merge patch of nodes/status that says, at a Unix time, that pods have a network."""
    now = timestamp(wall)
    condition = {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FlannelIsUp",
        "message": "Flannel is running on this node",
        "lastTransitionTime": now,
        "lastHeartbeatTime": now,
    }
    return {"status": {"conditions": [condition]}}
