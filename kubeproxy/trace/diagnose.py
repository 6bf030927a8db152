"""What on the node may keep a packet from faring as the model says: sysctls, others' rules, old connections.

Pure: `facts.py` reads, here is what it means.
"""

from collections.abc import Iterator, Mapping

import msgspec

from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.model.addresses import host_port
from kubeproxy.model.flows import Flow
from kubeproxy.model.objects import Protocol, Record
from kubeproxy.model.topology import Unused
from kubeproxy.trace.answer import Answer, Candidate
from kubeproxy.trace.packet import Origin
from kubeproxy.trace.rules import Chains, View, redirections, suspects
from kubeproxy.trace.table import is_loopback

MOST_FLOWS = 3
_SILENT = (Unused.NOT_READY.value, Unused.NOT_SERVING.value)
"""Why an endpoint is left out that nobody should be sent to any more, not even who had it before."""


class Facts(Record, frozen=True, kw_only=True):
    """What was read of the node; parts that could not be read are missing, and named in ``unread``."""

    sysctls: Mapping[str, str]
    saved: Mapping[str, str]
    """iptables-save by table."""
    flows: tuple[Flow, ...] = ()
    """Tracked connections to the destination."""
    route_back: str | None = ""
    """By which interface answers to the source leave; None when there is no route, "" when that was not asked."""
    unread: tuple[str, ...] = ()


def findings(answer: Answer, facts: Facts) -> tuple[str, ...]:
    """Return every suspicion, the surest first."""
    return (
        *_stale(answer, facts),
        *_sysctls(answer, facts),
        *_foreign(answer, facts),
        *(f"not looked at: {why}" for why in facts.unread),
    )


def _used(answer: Answer) -> list[Candidate]:
    return [each for each in answer.endpoints if each.chance]


def _stale(answer: Answer, facts: Facts) -> Iterator[str]:
    """A UDP client that goes on sending keeps the endpoint that it had, whatever the rules say since."""
    if answer.packet.protocol != Protocol.UDP or not answer.service:
        return
    good = {each.endpoint for each in answer.endpoints if each.left_out not in _SILENT}
    stale = [flow for flow in facts.flows if _answerer(flow) not in good]
    for flow in stale[:MOST_FLOWS]:
        yield f"stale conntrack entry: {flow}; such a client is not sent on anew until it is silent or deleted"
    if len(stale) > MOST_FLOWS:
        yield f"and {len(stale) - MOST_FLOWS} more stale conntrack entries"


def _answerer(flow: Flow) -> str:
    return host_port(flow.answerer, flow.answerer_port)


def _sysctls(answer: Answer, facts: Facts) -> Iterator[str]:
    packet = answer.packet
    from_wire = packet.origin != Origin.NODE
    if facts.route_back is None:
        yield f"no route to {packet.source}: answers do not find back, and rp_filter, if on, refuses its packets"
    forwarding = "net/ipv4/ip_forward" if answer.family == "IPv4" else "net/ipv6/conf/all/forwarding"
    if answer.outcome == "FORWARD" and from_wire and facts.sysctls.get(forwarding) == "0":
        yield f"forwarding is off: nothing is passed on to endpoints beyond the node itself; sysctl {forwarding}=1"
    if answer.family != "IPv4":
        return
    localnet = "net/ipv4/conf/all/route_localnet"
    if is_loopback(packet.source) and answer.outcome == "FORWARD" and facts.sysctls.get(localnet) == "0":
        yield f"packets from {packet.source} leave no interface: sysctl {localnet}=1"
    if not from_wire or not packet.interface:
        return
    names = ("all", packet.interface)
    values = [facts.sysctls.get(f"net/ipv4/conf/{name}/rp_filter", "0") for name in names]
    strict = max(values) == "1"
    if strict and facts.route_back and facts.route_back != packet.interface:
        yield (
            f"rp_filter is strict on {packet.interface}, and the route back to {packet.source} is by "
            f"{facts.route_back}: such packets are dropped; sysctl net/ipv4/conf/{packet.interface}/rp_filter=2"
        )


def _foreign(answer: Answer, facts: Facts) -> Iterator[str]:
    packet = answer.packet
    from_wire = packet.origin != Origin.NODE
    before = View(
        source=packet.source,
        destination=packet.destination,
        port=packet.port,
        protocol=packet.protocol.lower(),
        interface=packet.interface,
    )
    entry = "PREROUTING" if from_wire else "OUTPUT"
    for table in ("raw", "mangle"):
        if table in facts.saved:
            for rule in suspects(Chains(table, facts.saved[table]), entry, before):
                yield f"a rule of somebody else may stop it: {table} {rule}"
    if "nat" in facts.saved and answer.mode != Mode.NFTABLES:  # whose own chains come first
        for rule in redirections(Chains("nat", facts.saved["nat"]), entry, before):
            yield f"a rule of somebody else comes before kubeproxy's: nat {rule}"
    if "filter" not in facts.saved or answer.outcome != "FORWARD":
        return
    chains, told = Chains("filter", facts.saved["filter"]), set()
    for each in _used(answer)[:MOST_FLOWS]:
        address, _, port = each.endpoint.rpartition(":")
        after = View(
            source=packet.source,
            destination=address.strip("[]"),
            port=int(port),
            protocol=packet.protocol.lower(),
            interface=packet.interface,
            marked=bool(each.masquerade),
        )
        passed = [("OUTPUT", after)]
        if from_wire:
            # IPVS takes what has come in to the node, and sends it out as if it were the node's.
            arriving = msgspec.structs.replace(before, marked=after.marked)
            passed = [("INPUT", arriving), *passed] if answer.mode == Mode.IPVS else [("FORWARD", after)]
        for chain, view in passed:
            for rule in suspects(chains, chain, view):
                if rule not in told:
                    told.add(rule)
                    yield f"a rule of somebody else may stop it: filter {rule}"
