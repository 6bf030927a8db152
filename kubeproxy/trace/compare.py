"""What the model says against what the kernel did with a packet: the differences, in words. Pure."""

import re
from collections.abc import Iterator

import msgspec

from kubeproxy.dataplane.leftovers.upstream import NFTABLES_TABLE, Mode, owns
from kubeproxy.dataplane.nftables import names
from kubeproxy.kernel.paths import Hop, Path
from kubeproxy.model.addresses import host_port
from kubeproxy.model.objects import Record
from kubeproxy.trace.answer import Answer, Live
from kubeproxy.trace.verdict import Outcome

_DNAT = re.compile(r"--to-destination (?P<address>\S+):(?P<port>\d+)")
_LEAVES = frozenset(("POSTROUTING", names.NAT_POSTROUTING))
_ARRIVES = frozenset(("INPUT", names.FILTER_INPUT))
_ROUTED = frozenset(("FORWARD", "OUTPUT", names.FILTER_FORWARD, names.FILTER_OUTPUT, *_LEAVES, *_ARRIVES))
"""Base chains that a packet meets when it was routed."""
_REFUSING = re.compile(r"-j REJECT|\breject\b")
_MASKING = re.compile(r"-j (MASQUERADE|SNAT)|\b(masquerade|snat)\b")
_QUOTED = re.compile(r'"[^"]*"')
"""A rule's comment, which says what it likes."""


class Translation(Record, frozen=True, kw_only=True):
    """What connection tracking holds of the packet."""

    answerer: str
    port: int
    seen_as: str
    """The client's address as the answerer sees it."""


class Seen(Record, frozen=True, kw_only=True):
    """What became of a packet that was really sent."""

    path: Path
    translation: Translation | None = None
    heard: str = ""
    """What the sender heard, if it can hear: connected, refused or silence."""


def compare(answer: Answer, seen: Seen) -> Live:
    """Return what the kernel did and every difference to the verdict."""
    if seen.translation is None and _stop(seen) is None:
        seen = msgspec.structs.replace(seen, translation=_forgotten(answer, seen))
    outcome = _outcome(answer, seen)
    differences = tuple(_differences(answer, seen, outcome))
    return Live(path=_path(answer, seen, outcome), outcome=outcome, differences=differences)


def _stop(seen: Seen) -> Hop | None:
    return next((hop for hop in seen.path.hops if hop.stopped), None)


def _forgotten(answer: Answer, seen: Seen) -> Translation | None:
    """Return what connection tracking must have held: it forgets a connection that its first answer resets."""
    chains = {chain for _, chain in seen.path.chains}
    if chains.isdisjoint(_LEAVES | _ARRIVES):
        return None
    packet = answer.packet
    for hop in seen.path.hops:
        found = _DNAT.search(hop.rule)
        if found is not None:
            return Translation(answerer=found["address"].strip("[]"), port=int(found["port"]), seen_as="")
    used = [each.endpoint for each in answer.endpoints if each.chance]
    by_map = any(hop.table == NFTABLES_TABLE and "dnat" in hop.rule for hop in seen.path.hops)
    if used and (by_map or (answer.mode == Mode.IPVS and not chains.isdisjoint(_LEAVES))):
        address, _, port = used[0].rpartition(":")  # which of them, no rule tells
        return Translation(answerer=address.strip("[]"), port=int(port), seen_as="")
    if seen.heard in ("refused", "connected"):
        return Translation(answerer=packet.destination, port=packet.port, seen_as=packet.source)
    return None


def _outcome(answer: Answer, seen: Seen) -> str:
    stop = _stop(seen)
    if stop is not None:
        return Outcome.REFUSED if _does(_REFUSING, stop) else Outcome.DROPPED
    if seen.translation is not None:
        there = (seen.translation.answerer, seen.translation.port)
        same = there == (answer.packet.destination, answer.packet.port)
        return Outcome.NOT_OURS if same else Outcome.FORWARD
    if answer.mode == Mode.IPVS and seen.heard == "refused":
        return Outcome.REFUSED  # by IPVS, which has no rule to show
    return Outcome.DROPPED


def _differences(answer: Answer, seen: Seen, outcome: str) -> Iterator[str]:
    stop = _stop(seen)
    if stop is not None and answer.outcome != outcome:
        whose = "kubeproxy's" if owns(stop.table, stop.chain) else "somebody else's"
        yield f"the kernel stops it, by {whose} rule: {stop.table} {stop.chain} {stop.rule}"
    elif outcome == Outcome.DROPPED and answer.outcome != outcome:
        yield from _lost(answer, seen)
    elif outcome != answer.outcome:
        yield f"the model says {answer.outcome}, the kernel {_done(answer, seen, outcome)}"
    elif outcome == Outcome.FORWARD:
        yield from _endpoint(answer, seen)


def _lost(answer: Answer, seen: Seen) -> Iterator[str]:
    if answer.outcome == Outcome.NOT_OURS and seen.heard != "connected":
        return  # nobody promised anything
    if not seen.path.chains:
        yield "the kernel told of no packet: it was lost before the tables (rp_filter, a route, tc or XDP)"
    elif not any(chain in _ROUTED for _, chain in seen.path.chains):
        yield "it was lost between PREROUTING and FORWARD: no route, ip_forward off, or rp_filter"
    else:
        yield f"the model says {answer.outcome}, and the kernel tracks no such connection: it was lost"


def _endpoint(answer: Answer, seen: Seen) -> Iterator[str]:
    found = seen.translation
    assert found is not None
    text = host_port(found.answerer, found.port)
    candidate = next((each for each in answer.endpoints if each.endpoint == text), None)
    if candidate is None or not candidate.chance:
        why = f" ({candidate.left_out})" if candidate is not None else ""
        yield f"the kernel sends it to {text}, which is none of the model's endpoints{why}"
        return
    masking = _masking(seen)
    if masking is not None and not candidate.masquerade:
        whose = "kubeproxy's" if owns(masking.table, masking.chain) else "somebody else's"
        yield f"the kernel masquerades it, by {whose} rule: {masking.table} {masking.chain} {masking.rule}"
    elif masking is None and candidate.masquerade:
        yield f"the kernel does not masquerade it, the model says: {candidate.masquerade}"


def _masking(seen: Seen) -> Hop | None:
    """Return the rule that gave the packet another source."""
    return next((hop for hop in seen.path.hops if _does(_MASKING, hop)), None)


def _does(what: re.Pattern[str], hop: Hop) -> bool:
    return what.search(_QUOTED.sub("", hop.rule)) is not None


def _done(answer: Answer, seen: Seen, outcome: str) -> str:
    if outcome == Outcome.FORWARD:
        assert seen.translation is not None
        return f"sends it to {host_port(seen.translation.answerer, seen.translation.port)}"
    return "leaves it as it is: no rule of kubeproxy's translated it" if outcome == Outcome.NOT_OURS else outcome


def _path(answer: Answer, seen: Seen, outcome: str) -> str:
    """Return the chains that it came through, and its end."""
    parts: list[str] = []
    known: set[tuple[str, str]] = set()
    table = ""
    for hop in seen.path.hops:
        if hop.stopped:
            break
        if not owns(hop.table, hop.chain):
            continue
        if (hop.table, hop.chain) not in known:
            known.add((hop.table, hop.chain))
            parts.append(hop.chain if hop.table == table else f"{hop.table} {hop.chain}")
            table = hop.table
    stop = _stop(seen)
    if stop is not None:
        parts.append(f"{stop.table} {stop.chain} {stop.rule}")
    elif outcome == Outcome.FORWARD and seen.translation is not None:
        masked = f", masqueraded as {seen.translation.seen_as}".removesuffix(" as ") if _masking(seen) else ""
        parts.append(f"{host_port(seen.translation.answerer, seen.translation.port)}{masked}")
    elif outcome == Outcome.NOT_OURS:
        parts.append("not translated")
    else:
        parts.append("lost")
    if seen.heard:
        who = " by the endpoint" if outcome == Outcome.FORWARD and seen.heard == "refused" else ""
        parts.append(seen.heard + who)
    return " → ".join(parts)
