"""Cluster IPs and node ports, handed out in the same store transaction that writes the Service.

Each address or port in use is a key below /registry/ranges/; a Service's write carries the condition that the
keys it claims do not exist. So no two writers, in one process or several, can end up with the same one, and
nothing leaks when a process dies half-way.

Random picks leave the bottom of a range to explicit requests, as upstream's strategy does (KEP 3070).
"""

import random
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import msgspec

from kubeproxy.apiserver.service import (
    NONE,
    gets_node_ports,
    has_cluster_ip,
    is_headless,
    may_have_node_ports,
    needs_health_check_port,
)
from kubeproxy.apiserver.status import Errors, FieldError, internal, invalid, invalid_value
from kubeproxy.model.addresses import canonical_ip, family_of
from kubeproxy.store.base import Range, Store, prefix_end

_IPS = b"/registry/ranges/serviceips/"
_PORTS = b"/registry/ranges/servicenodeports/"
_RANDOM_PICKS = 8
_TAKEN = "provided port is already allocated"

Spec = dict[str, Any]


class Claim(msgspec.Struct, frozen=True):
    """A key that a Service's write creates; ``refusal`` is what to say when somebody else has it.

    A claim without a refusal was picked by us: when it is taken, another is picked.
    """

    key: bytes
    refusal: FieldError | None = None


class Ranges(msgspec.Struct, frozen=True, kw_only=True):
    """What may be handed out."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    """The service CIDRs, one per family, the cluster's primary family first."""
    first_port: int = 30000
    last_port: int = 32767

    def network(self, label: str) -> IPv4Network | IPv6Network | None:
        """Return the CIDR of `IPv4` or `IPv6`."""
        return next((net for net in self.networks if f"IPv{net.version}" == label), None)

    @property
    def families(self) -> list[str]:
        """The families that the cluster has, as ipFamilies names them."""
        return [f"IPv{net.version}" for net in self.networks]


def parse_ranges(cidrs: str, ports: str) -> Ranges:
    """Read --service-cluster-ip-range and --service-node-port-range. Raises ValueError."""
    networks = tuple(ip_network(text.strip()) for text in cidrs.split(","))
    if len({net.version for net in networks}) != len(networks):
        raise ValueError(f"service-cluster-ip-range {cidrs!r}: at most one CIDR of each IP family")
    if any(net.num_addresses < 8 for net in networks):
        raise ValueError(f"service-cluster-ip-range {cidrs!r}: must contain at least 8 IP addresses")
    first, dash, last = ports.partition("-")
    if not dash or not first.isdigit() or not last.isdigit() or not 0 < int(first) <= int(last) < 65536:
        raise ValueError(f"service-node-port-range {ports!r}: must be FIRST-LAST within 1-65535")
    return Ranges(networks=networks, first_port=int(first), last_port=int(last))


def ip_key(address: str) -> bytes:
    """Return the key that says an address is in use."""
    return _IPS + address.encode()


def port_key(protocol: str, port: int) -> bytes:
    """Return the key that says a node port is in use for a protocol."""
    return _PORTS + f"{protocol}-{port}".encode()


def held_keys(spec: Mapping[str, Any]) -> set[bytes]:
    """Return the keys that a stored Service holds."""
    held = set()
    if has_cluster_ip(spec):
        held = {ip_key(canonical_ip(ip) or ip) for ip in spec.get("clusterIPs") or () if ip != NONE}
    if may_have_node_ports(spec):
        for port in spec.get("ports") or ():
            if port.get("nodePort"):
                held.add(port_key(port.get("protocol", "TCP"), port["nodePort"]))
    if needs_health_check_port(spec) and spec.get("healthCheckNodePort"):
        held.add(port_key("TCP", spec["healthCheckNodePort"]))
    return held


class Allocator:
    """Completes Services with addresses and ports. ``rng`` makes the picks."""

    def __init__(self, store: Store, ranges: Ranges, rng: random.Random) -> None:
        self._store = store
        self._ranges = ranges
        self._rng = rng

    async def complete(self, obj: dict[str, Any], held: set[bytes], attempt: int) -> list[Claim]:
        """Fill in a Service's families, addresses and ports; return the claims its write must make.

        ``held`` are the keys that the stored Service has already. On a later ``attempt`` picks are made from
        what is really free. Raises an ApiProblem for a request that cannot be met.
        """
        spec = obj["spec"]
        if not has_cluster_ip(spec):
            return []
        name = obj["metadata"]["name"]
        errors = self._settle_families(spec)
        if errors:
            raise invalid("", "Service", name, errors)
        picked: set[bytes] = set()
        claims = await self._claim_ips(spec, held, picked, attempt, name)
        claims += self._claim_asked_ports(spec, held, picked, name)
        if gets_node_ports(spec):
            claims += await self._claim_free_ports(spec, picked, attempt)
        if needs_health_check_port(spec) and not spec.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = number = await self._pick_port(picked, attempt)
            claims.append(Claim(port_key("TCP", number)))
        return claims

    def _settle_families(self, spec: Spec) -> Errors:
        if is_headless(spec) and not spec.get("selector") and "ipFamilies" not in spec:
            first = self._ranges.families[0]
            spec.setdefault("ipFamilyPolicy", "RequireDualStack")
            spec["ipFamilies"] = [first, "IPv6" if first == "IPv4" else "IPv4"]
            return []
        wanted = [family_of(canonical_ip(ip) or ip).label for ip in spec.get("clusterIPs") or () if ip != NONE]
        families = list(dict.fromkeys((spec.get("ipFamilies") or []) + wanted)) or self._ranges.families[:1]
        policy = spec.setdefault("ipFamilyPolicy", "RequireDualStack" if len(families) == 2 else "SingleStack")
        if is_headless(spec) and not spec.get("selector"):
            spec["ipFamilies"] = families
            return []
        for index, family in enumerate(families):
            if self._ranges.network(family) is None:
                return [invalid_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")]
        if policy == "RequireDualStack" and len(self._ranges.networks) < 2:
            detail = "this cluster is not configured for dual-stack services"
            return [invalid_value("spec.ipFamilyPolicy", policy, detail)]
        if policy == "SingleStack" and len(families) > 1:
            detail = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
            return [invalid_value("spec.ipFamilyPolicy", policy, detail)]
        if policy != "SingleStack":
            families += [family for family in self._ranges.families if family not in families]
        spec["ipFamilies"] = families
        return []

    async def _claim_ips(
        self, spec: Spec, held: set[bytes], picked: set[bytes], attempt: int, name: str
    ) -> list[Claim]:
        if is_headless(spec):
            return []
        asked = list(spec.get("clusterIPs") or [])
        claims = []
        for text in asked:
            key = ip_key(canonical_ip(text) or text)
            if key not in held:
                claims.append(Claim(key, self._check_ip(text, asked, name)))
        for family in spec["ipFamilies"][len(asked) :]:
            address = await self._pick_ip(family, picked, attempt)
            asked.append(address)
            claims.append(Claim(ip_key(address)))
        spec["clusterIPs"], spec["clusterIP"] = asked, asked[0]
        return claims

    def _check_ip(self, text: str, asked: list[str], name: str) -> FieldError:
        canonical = canonical_ip(text) or text
        network = self._ranges.network(family_of(canonical).label)
        address = ip_address(canonical)
        failed = f"failed to allocate IP {text}: "
        if network is None or address not in network or not 0 < int(address) - int(network[0]) < _size(network):
            listed = ",".join(str(net) for net in self._ranges.networks)
            detail = f"the provided IP ({text}) is not in the valid range. The range of valid IPs is {listed}"
            raise invalid("", "Service", name, [invalid_value("spec.clusterIPs", asked, failed + detail)])
        return invalid_value("spec.clusterIPs", asked, f"{failed}provided IP is already allocated")

    async def _pick_ip(self, family: str, picked: set[bytes], attempt: int) -> str:
        network = self._ranges.network(family)
        assert network is not None
        size = _size(network)
        reserved = min(max(16, size // 16), 256) if size > 16 else 1
        if attempt < _RANDOM_PICKS:
            address = str(network[self._rng.randrange(max(reserved, 2), size)])
        else:
            used = await self._used(_IPS)
            free = [i for i in range(2, min(size, 2**20)) if ip_key(str(network[i])) not in used | picked]
            if not free:
                raise internal("failed to allocate a serviceIP: range is full")
            address = str(network[self._rng.choice([i for i in free if i >= reserved] or free)])
        picked.add(ip_key(address))
        return address

    async def _used(self, prefix: bytes) -> set[bytes]:
        found = await self._store.range(Range(key=prefix, range_end=prefix_end(prefix), keys_only=True))
        return {kv.key for kv in found.kvs}

    def _claim_asked_ports(self, spec: Spec, held: set[bytes], picked: set[bytes], name: str) -> list[Claim]:
        """Claim what the user names before anything is picked, so that no pick gets in its way."""
        asked: list[tuple[str, str, int]] = []
        if may_have_node_ports(spec):
            asked += [
                (f"spec.ports[{index}].nodePort", port["protocol"], port["nodePort"])
                for index, port in enumerate(spec.get("ports") or ())
                if port.get("nodePort")
            ]
        if needs_health_check_port(spec) and spec.get("healthCheckNodePort"):
            asked.append(("spec.healthCheckNodePort", "TCP", spec["healthCheckNodePort"]))
        claims = []
        for field, protocol, number in asked:
            key = port_key(protocol, number)
            if key in picked:
                raise invalid("", "Service", name, [invalid_value(field, number, _TAKEN)])
            picked.add(key)
            if key not in held:
                claims.append(Claim(key, self._check_port(field, number, name)))
        return claims

    async def _claim_free_ports(self, spec: Spec, picked: set[bytes], attempt: int) -> list[Claim]:
        claims = []
        ports = spec.get("ports") or ()
        # The same port over TCP and UDP (DNS) gets one number for both, as upstream does; not the one that the
        # user named when somebody else has it for the other protocol, which only a first attempt finds out.
        asked = [port for port in ports if port.get("nodePort")]
        shared = {} if attempt else {port["port"]: port["nodePort"] for port in asked}
        for port in ports:
            if port.get("nodePort"):
                continue
            number = shared.get(port["port"])
            if number is None or port_key(port["protocol"], number) in picked:
                number = await self._pick_port(picked, attempt)
            port["nodePort"] = number
            key = port_key(port["protocol"], number)
            picked.add(key)
            claims.append(Claim(key))
            shared.setdefault(port["port"], number)
        return claims

    def _check_port(self, field: str, number: int, name: str) -> FieldError:
        first, last = self._ranges.first_port, self._ranges.last_port
        if not first <= number <= last:
            detail = f"provided port is not in the valid range. The range of valid ports is {first}-{last}"
            raise invalid("", "Service", name, [invalid_value(field, number, detail)])
        return invalid_value(field, number, _TAKEN)

    async def _pick_port(self, picked: set[bytes], attempt: int) -> int:
        first, last = self._ranges.first_port, self._ranges.last_port
        size = last - first + 1
        reserved = min(max(16, size // 32), 128) if size > 16 else 0
        used = await self._used(_PORTS) if attempt >= _RANDOM_PICKS else set()
        taken = used | picked
        if attempt < _RANDOM_PICKS:
            candidates: Sequence[int] = [self._rng.randrange(first + reserved, last + 1) for _ in range(4)]
        else:
            candidates = [*range(first + reserved, last + 1), *range(first, first + reserved)]
        for number in candidates:
            if not any(port_key(protocol, number) in taken for protocol in ("TCP", "UDP", "SCTP")):
                return number
        if attempt < _RANDOM_PICKS:
            return candidates[0]
        raise internal("failed to allocate a nodePort: range is full")


def _size(network: IPv4Network | IPv6Network) -> int:
    """Offsets that may be used: not the broadcast address of IPv4; an IPv6 range is cut to 2^20."""
    usable = network.num_addresses - 1 if network.version == 4 else network.num_addresses
    return min(usable, 2**20 if network.version == 6 else usable)
