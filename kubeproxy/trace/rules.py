"""Other people's rules in iptables: which of them may stop a packet. Pure.

Addresses, protocol, ports and interfaces of a rule are understood; one with other matches *may* match. So this
names suspects; `--live` convicts.
"""

import shlex
from collections.abc import Iterator
from enum import Enum

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.ipvs.names import ACCESS
from kubeproxy.dataplane.leftovers.upstream import EVERY_OWNED
from kubeproxy.model.addresses import within
from kubeproxy.model.objects import Record

_DEPTH = 8
MOST = 5
"""So many suspects are named."""


class Match(Enum):
    """Whether a rule matches a packet."""

    YES = "yes"
    NO = "no"
    MAYBE = "maybe"


class View(Record, frozen=True, kw_only=True):
    """A packet as a table sees it: after translation, in the filter table."""

    source: str
    destination: str
    port: int
    protocol: str
    interface: str = ""
    marked: bool = False
    """Whether it carries the mark for masquerading, on which kubeproxy's own rules accept it."""


class Chains:
    """One table of an iptables-save."""

    def __init__(self, table: str, text: str) -> None:
        self.table = table
        self.rules: dict[str, list[str]] = {}
        self.policies: dict[str, str] = {}
        for line in text.splitlines():
            if line.startswith(":"):
                chain, policy, *_ = line[1:].split()
                self.policies[chain] = policy
            elif line.startswith("-A "):
                chain, _, rule = line[3:].partition(" ")
                self.rules.setdefault(chain, []).append(rule)


def suspects(chains: Chains, chain: str, view: View) -> list[str]:
    """Return rules of others, and the policy, that may end a packet in a built-in chain; each as `CHAIN RULE`."""
    found: list[str] = []
    for chain_name, rule, match in _met(chains, chain, view, 0):
        if _verb(rule) in ("DROP", "REJECT"):
            found.append(f"{chain_name} {rule}" + ("" if match is Match.YES else " (if its other matches hold)"))
        if match is Match.YES:  # accepted, or stopped: no later rule is met
            return found[:MOST]
    if chains.policies.get(chain) == "DROP":
        found.append(f"{chain} policy DROP (no rule that accepts it for sure was found)")
    return found[:MOST]


def redirections(chains: Chains, chain: str, view: View) -> list[str]:
    """Return rules of others before ours that may translate a packet before kubeproxy sees it."""
    found = []
    for chain_name, rule, match in _met(chains, chain, view, 0, stop_at_ours=True):
        if _verb(rule) in ("DNAT", "REDIRECT", "ACCEPT"):
            found.append(f"{chain_name} {rule}" + ("" if match is Match.YES else " (if its other matches hold)"))
    return found[:MOST]


def _met(
    chains: Chains, chain: str, view: View, depth: int, *, stop_at_ours: bool = False
) -> Iterator[tuple[str, str, Match]]:
    """Yield the ending rules that a packet meets or may meet, in order, through others' chains."""
    for rule in chains.rules.get(chain, []):
        verb = _verb(rule)
        match = matches(rule, view)
        if match is Match.NO:
            continue
        if EVERY_OWNED.owns(chains.table, verb):
            if stop_at_ours and verb == names.SERVICES:
                return
            if verb in (names.FORWARD, ACCESS) and view.marked:
                yield chain, f"{rule} (which accepts it)", match
            continue
        if verb in ("ACCEPT", "DROP", "REJECT", "DNAT", "REDIRECT"):
            yield chain, rule, match
            if match is Match.YES and verb != "DNAT":
                return
        elif verb == "RETURN" and match is Match.YES:
            return
        elif verb in chains.policies and depth < _DEPTH:
            for name, inner, found in _met(chains, verb, view, depth + 1, stop_at_ours=stop_at_ours):
                both = found if match is Match.YES else Match.MAYBE
                yield name, inner, both
                if both is Match.YES and _verb(inner) != "DNAT":
                    return


def matches(rule: str, view: View) -> Match:
    """Return whether a rule, as iptables-save words it, matches the first packet of a connection."""
    words = _words(rule)
    sure = True
    negated = False
    while words:
        word = words.pop(0)
        if word in ("-j", "-g"):
            break
        if word == "!":
            negated = True
            continue
        value = words[0] if words and not words[0].startswith("-") else ""
        if value:
            words.pop(0)
        holds = _holds(word, value, view)
        if holds is None:
            sure = False
        elif holds is negated:
            return Match.NO
        negated = False
    return Match.YES if sure else Match.MAYBE


def _holds(word: str, value: str, view: View) -> bool | None:
    """Return whether one match holds; None when that is not known."""
    match word:
        case "-s":
            return within(view.source, value)
        case "-d":
            return within(view.destination, value)
        case "-p":
            return value in ("all", view.protocol)
        case "-i":
            if not view.interface:
                return None
            return view.interface.startswith(value[:-1]) if value.endswith("+") else view.interface == value
        case "--dport":
            first, _, last = value.partition(":")
            return int(first or 0) <= view.port <= int(last or (65535 if ":" in value else first))
        case "--ctstate" | "--state":
            return "NEW" in value.split(",")
        case "--comment":
            return True
        case "-m" if value in ("comment", "conntrack", "state", "tcp", "udp", "sctp"):
            return True
    return None


def _words(rule: str) -> list[str]:
    try:
        return shlex.split(rule)
    except ValueError:  # a quote in somebody's comment
        return rule.split()


def _verb(rule: str) -> str:
    words = _words(rule)
    for flag in ("-j", "-g"):
        if flag in words[:-1]:
            return words[words.index(flag) + 1]
    return ""
