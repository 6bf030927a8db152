"""ServiceCIDRs: the kind, and what they say about which cluster IPs may be handed out (KEP 1880).

The kind is upstream's (pkg/apis/networking/validation, pkg/registry/networking/servicecidr). IPAddress objects are
not served: an address in use is a key of the allocator, written in the Service's own transaction.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import msgspec

from kubeproxy.apiserver.addresses import validate_cidr
from kubeproxy.apiserver.status import Errors, invalid_value, required
from kubeproxy.model.addresses import canonical_cidr, family_of
from kubeproxy.store.base import Compare, Range, Store, Target, prefix_end

Obj = dict[str, Any]
IPNetwork = IPv4Network | IPv6Network

PREFIX = b"/registry/servicecidrs/"
DEFAULT = "kubernetes"
"""The name of the ServiceCIDR that holds --service-cluster-ip-range."""
FINALIZER = "networking.k8s.io/service-cidr-finalizer"
READY = "Kubernetes Service CIDR is ready"
TERMINATING = (
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)


def condition(ready: bool, reason: str, message: str, since: str) -> Obj:
    """Return the Ready condition; ``since`` is an RFC 3339 time."""
    return {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }


def settle_service_cidr(new: Obj, old: Obj | None) -> None:
    """A new ServiceCIDR is protected, and ready, from its first moment on.

    Upstream's controller does both a moment later; in between, a deletion would leave addresses without a network.
    """
    if old is not None:
        return
    finalizers = new["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    made = new["metadata"]["creationTimestamp"]
    new["status"] = {"conditions": [condition(True, "", READY, made)]}


def validate_service_cidr(obj: Obj) -> Errors:
    """Return what is wrong with a ServiceCIDR."""
    spec = obj.get("spec") or {}
    cidrs = spec.get("cidrs") or []
    if not cidrs:
        return [required("spec.cidrs", "at least one CIDR required")]
    if len(cidrs) > 2:
        return [invalid_value("spec.cidrs", spec, "may only hold up to 2 values")]
    if len(cidrs) == 2 and not _is_dual(cidrs):
        detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        return [invalid_value("spec.cidrs", spec, detail)]
    errors: Errors = []
    for index, text in enumerate(cidrs):
        field = f"spec.cidrs[{index}]"
        errors += validate_cidr(field, text) or _validate_canonical(field, text)
    return errors


def _is_dual(cidrs: list[str]) -> bool:
    canonical = [canonical_cidr(text) for text in cidrs]
    return None not in canonical and len({family_of(text) for text in canonical if text}) == 2


def _validate_canonical(field: str, text: str) -> Errors:
    canonical = canonical_cidr(text)
    if text == canonical:
        return []
    return [invalid_value(field, text, f'must be in canonical form ("{canonical}")')]


def validate_service_cidr_update(new: Obj, old: Obj) -> Errors:
    """CIDRs are fixed, but a second family may be added."""
    cidrs, before = (list((obj.get("spec") or {}).get("cidrs") or []) for obj in (new, old))
    if cidrs == before or (len(before) == 1 and len(cidrs) == 2 and cidrs[0] == before[0]):
        return []
    if len(before) == 1 and len(cidrs) == 2:
        return [invalid_value("spec.cidrs[0]", cidrs[0], "field is immutable")]
    return [invalid_value("spec.cidrs", cidrs, "field is immutable")]


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, frozen=True):
    conditions: tuple[_Condition, ...] = ()


class _Spec(msgspec.Struct, frozen=True):
    cidrs: tuple[str, ...] = ()


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    deletion_timestamp: str | None = None


class _Stored(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()
    status: _Status = _Status()


class ServiceCidr(msgspec.Struct, frozen=True, kw_only=True):
    """A stored ServiceCIDR, as the allocator sees it."""

    key: bytes
    revision: int
    name: str
    networks: tuple[IPNetwork, ...]
    ready: bool
    """Neither being deleted nor said to be unready: addresses of it may be handed out."""
    terminating: bool

    @property
    def stands(self) -> Compare:
        """The condition that nobody has changed it: a write that takes an address of it carries it."""
        return Compare(key=self.key, target=Target.MOD, value=self.revision)


async def read_service_cidrs(store: Store) -> tuple[int, list[ServiceCidr]]:
    """Return the revision read and all ServiceCIDRs, the default one first."""
    found = await store.range(Range(key=PREFIX, range_end=prefix_end(PREFIX)))
    cidrs = []
    for kv in found.kvs:
        stored = msgspec.json.decode(kv.value, type=_Stored)
        terminating = stored.metadata.deletion_timestamp is not None
        refused = any(held.type == "Ready" and held.status != "True" for held in stored.status.conditions)
        cidrs.append(
            ServiceCidr(
                key=kv.key,
                revision=kv.mod_revision,
                name=stored.metadata.name,
                networks=tuple(ip_network(text) for text in stored.spec.cidrs),
                ready=not terminating and not refused,
                terminating=terminating,
            )
        )
    return found.revision, sorted(cidrs, key=lambda cidr: (cidr.name != DEFAULT, cidr.name))


class Networks:
    """The networks that addresses may be taken from, remembered until a write under their condition is refused.

    Safe beside other servers on the same store: every use is conditional on the ServiceCIDR's revision, and a
    request is refused only after a fresh look.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: list[tuple[IPNetwork, ServiceCidr]] = []

    async def of_family(self, label: str, *, fresh: bool = False) -> list[tuple[IPNetwork, ServiceCidr]]:
        """Return the networks of `IPv4` or `IPv6` that are ready, each with the ServiceCIDR that has it."""
        if fresh or not self._known:
            _, cidrs = await read_service_cidrs(self._store)
            self._known = [(network, cidr) for cidr in cidrs if cidr.ready for network in cidr.networks]
        return [(network, cidr) for network, cidr in self._known if f"IPv{network.version}" == label]

    def forget(self) -> None:
        """Read them again next time."""
        self._known = []
