"""Cluster IPs and node ports, handed out in the same store transaction that writes the Service.

Each address or port in use is a key below /registry/ranges/; a Service's write carries the condition that the
keys it claims do not exist. So no two writers, in one process or several, can end up with the same one, and
nothing leaks when a process dies half-way. An address is also taken under the condition that the ServiceCIDR it
is of has not changed: none can be taken of one that another server has begun to delete.

Random picks leave the bottom of a range to explicit requests, as upstream's strategy does (KEP 3070).
"""

import random
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from kubeproxy.apiserver.families import settle_families
from kubeproxy.apiserver.service import (
    NONE,
    gets_node_ports,
    has_cluster_ip,
    is_headless,
    may_have_node_ports,
    needs_health_check_port,
)
from kubeproxy.apiserver.servicecidrs import IPNetwork, Networks, ServiceCidr
from kubeproxy.apiserver.status import FieldError, internal, invalid, invalid_value
from kubeproxy.model.addresses import canonical_ip, family_of
from kubeproxy.store.base import Compare, Range, Store, prefix_end

IPS = b"/registry/ranges/serviceips/"
PORTS = b"/registry/ranges/servicenodeports/"
_BLIND_PICKS = 2
"""Attempts that pick without reading what is in use: in a range that is mostly free they nearly always succeed."""
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_TAKEN = "provided port is already allocated"

Spec = dict[str, Any]


class Claim(msgspec.Struct, frozen=True):
    """A key that a Service's write creates; ``refusal`` is what to say when somebody else has it.

    A claim without a refusal was picked by us: when it is taken, another is picked. ``needs`` is a condition that
    the write must carry besides.
    """

    key: bytes
    refusal: FieldError | None = None
    needs: Compare | None = None


class Ranges(msgspec.Struct, frozen=True, kw_only=True):
    """What may be handed out."""

    networks: tuple[IPNetwork, ...]
    """The default ServiceCIDR, one network per family, the cluster's primary family first."""
    first_port: int = 30000
    last_port: int = 32767

    @property
    def families(self) -> list[str]:
        """The families that the cluster has, as ipFamilies names them."""
        return [f"IPv{net.version}" for net in self.networks]


def parse_ranges(cidrs: str, ports: str) -> Ranges:
    """Read --service-cluster-ip-range and --service-node-port-range. Raises ValueError."""
    try:
        networks = tuple(ip_network(text.strip()) for text in cidrs.split(","))
    except ValueError as error:
        raise ValueError(f"service-cluster-ip-range {cidrs!r}: {error}") from None
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
    return IPS + address.encode()


def port_key(protocol: str, port: int) -> bytes:
    """Return the key that says a node port is in use for a protocol."""
    return PORTS + f"{protocol}-{port}".encode()


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
        self._networks = Networks(store)
        self._kubernetes = ip_key(str(ranges.networks[0][1]))

    def forget(self) -> None:
        """A write was refused: what is remembered of ServiceCIDRs may be old."""
        self._networks.forget()

    async def complete(self, obj: dict[str, Any], before: Mapping[str, Any] | None, attempt: int) -> list[Claim]:
        """Fill in a Service's families, addresses and ports; return the claims its write must make.

        ``before`` is the stored spec, whose keys the Service has already. From the third ``attempt`` on picks are
        made from what is really free. Raises an ApiProblem for a request that cannot be met.
        """
        spec = obj["spec"]
        if not has_cluster_ip(spec):
            return []
        name = obj["metadata"].get("name", "")
        errors = settle_families(spec, before, self._ranges.families)
        if errors:
            raise invalid("", "Service", name, errors)
        held = held_keys(before) if before is not None else set()
        picked: set[bytes] = set()
        claims = await self._claim_ips(spec, held, attempt, name)
        claims += self._claim_asked_ports(spec, held, picked, name)
        if gets_node_ports(spec):
            claims += await self._claim_free_ports(spec, picked, attempt)
        if needs_health_check_port(spec) and not spec.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = number = await self._pick_port(picked, attempt, "HealthCheck NodePort 0")
            claims.append(Claim(port_key("TCP", number)))
        return claims

    async def _claim_ips(self, spec: Spec, held: set[bytes], attempt: int, name: str) -> list[Claim]:
        if is_headless(spec):
            return []
        asked = list(spec.get("clusterIPs") or [])
        claims = []
        for text in asked:
            if ip_key(canonical_ip(text) or text) not in held:
                claims.append(await self._claim_asked_ip(text, asked, name))
        for family in spec["ipFamilies"][len(asked) :]:
            address, cidr = await self._pick_ip(family, attempt)
            asked.append(address)
            claims.append(Claim(ip_key(address), needs=cidr.stands))
        if asked:
            spec["clusterIPs"], spec["clusterIP"] = asked, asked[0]
        return claims

    async def _claim_asked_ip(self, text: str, asked: list[str], name: str) -> Claim:
        canonical = canonical_ip(text) or text
        label = family_of(canonical).label
        failed = f"failed to allocate IP {text}: "
        cidr = _holder(canonical, await self._networks.of_family(label))
        if cidr is None:
            listed = await self._networks.of_family(label, fresh=True)
            cidr = _holder(canonical, listed)
        if cidr is None:
            around = [net for net, _ in listed if ip_address(canonical) in net]
            detail = "the provided network does not match the current range"
            if around:
                detail = (
                    f"the provided IP ({text}) is not in the valid range. The range of valid IPs is {around[0]}"
                )
            raise invalid("", "Service", name, [invalid_value("spec.clusterIPs", asked, failed + detail)])
        refusal = invalid_value("spec.clusterIPs", asked, f"{failed}provided IP is already allocated")
        return Claim(ip_key(canonical), refusal, cidr.stands)

    async def _pick_ip(self, family: str, attempt: int) -> tuple[str, ServiceCidr]:
        known = await self._networks.of_family(family, fresh=attempt >= _BLIND_PICKS)
        usable = [pair for pair in known if _size(pair[0]) > 1]
        if attempt < _BLIND_PICKS and usable:
            sizes = [_size(network) for network, _ in usable]
            network, cidr = self._rng.choices(usable, weights=sizes)[0]
            low = min(_reserved(network), _size(network) - 1)
            address = str(network[self._rng.randrange(low, _size(network))])
            if ip_key(address) != self._kubernetes:
                return address, cidr
        used = [key.removeprefix(IPS).decode() for key in {*await self._used(IPS), self._kubernetes}]
        addresses = [int(ip_address(text)) for text in used if family_of(text).label == family]
        for network, cidr in usable:
            size, start = _size(network), int(network[0])
            offset = _pick_free(self._rng, 1, _reserved(network), size, (at - start for at in addresses))
            if offset is not None:
                return str(network[offset]), cidr
        raise internal("failed to allocate a serviceIP: range is full")

    async def _used(self, prefix: bytes) -> list[bytes]:
        found = await self._store.range(Range(key=prefix, range_end=prefix_end(prefix), keys_only=True))
        return [kv.key for kv in found.kvs]

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
                number = await self._pick_port(picked, attempt, "nodePort")
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

    async def _pick_port(self, picked: set[bytes], attempt: int, what: str) -> int:
        first, last = self._ranges.first_port, self._ranges.last_port
        size = last - first + 1
        above = first + (min(max(16, size // 32), 128) if size > 16 else 0)
        if attempt < _BLIND_PICKS:
            number = self._rng.randrange(above, last + 1)
            if not any(port_key(protocol, number) in picked for protocol in _PROTOCOLS):
                return number
        used = {key.rpartition(b"-")[2] for key in (*await self._used(PORTS), *picked)}
        free = _pick_free(self._rng, first, above, last + 1, (int(number) for number in used))
        if free is None:
            raise internal(f"failed to allocate a {what}: range is full")
        return free


def _holder(address: str, networks: list[tuple[IPNetwork, ServiceCidr]]) -> ServiceCidr | None:
    """Return a ServiceCIDR that an address may be taken from."""
    parsed = ip_address(address)
    for network, cidr in networks:
        if parsed in network and 0 < int(parsed) - int(network[0]) < _size(network):
            return cidr
    return None


def _size(network: IPNetwork) -> int:
    """Offsets that may be used, from 1 on: not the broadcast address of IPv4; IPv6 is cut to 2^64 as upstream."""
    return network.num_addresses - 1 if network.version == 4 else min(network.num_addresses, 2**64)


def _reserved(network: IPNetwork) -> int:
    """Where the part that random picks are made from begins."""
    size = _size(network)
    return min(max(16, size // 16), 256) if size > 16 else 1


def _pick_free(rng: random.Random, first: int, above: int, end: int, used: Iterable[int]) -> int | None:
    """Return one of the free numbers in [above, end), each as likely as the other, else one in [first, above).

    Costs a sort of what is used, however large the range. None when all are used.
    """
    taken = sorted(set(used))
    for low, high in ((above, end), (first, above)):
        inside = [number for number in taken if low <= number < high]
        if len(inside) < high - low:
            pick = low + rng.randrange(high - low - len(inside))
            for number in inside:
                if number > pick:
                    break
                pick += 1
            return pick
    return None
