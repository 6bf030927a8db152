"""A model of the kernel's iptables, strict enough to test a backend against.

It holds tables, chains and rules, applies a restore text to a copy and keeps the copy only when every line of
the table went through, and refuses what the kernel refuses: a jump to a chain that does not exist, the
deletion of a chain that is not empty or is still referred to, the deletion of a rule that is not there, a
match on a set that nobody made, an address or a port that is none. Rules are kept as text: what a packet does is
the netns tests' business.
"""

import itertools
import re
import shlex
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from kubeproxy.kernel.exec import Result
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.iptables import RestoreFailed

BUILT_IN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
TARGETS = {"ACCEPT", "DROP", "REJECT", "RETURN", "DNAT", "MASQUERADE", "MARK", "SET"}
MAX_CHAIN_NAME = 28
MAX_COMMENT = 255

Chains = dict[str, list[str]]
_DECLARATION = re.compile(r":(\S+) \S+ \[\d+:\d+\]")


class Refusal(Exception):
    """A line that the kernel would not take."""


class _Rule(NamedTuple):
    """What can be said of a rule without the kernel."""

    words: tuple[str, ...]
    targets: tuple[str, ...]
    bad: str
    """Why the program would not take an option's value; "" if it would."""


@lru_cache(maxsize=100_000)
def _read(rule: str) -> _Rule:
    """Read a rule. Tests write the same ones again and again, and `shlex` takes its time."""
    words = tuple(shlex.split(rule) if '"' in rule or "'" in rule or "\\" in rule else rule.split())
    pairs = list(itertools.pairwise(words))
    targets = tuple(after for word, after in pairs if word in ("-j", "-g"))
    bad = (f"bad value {value!r} of {option}" for option, value in pairs if not _is_legal(option, value))
    return _Rule(words, targets, next(bad, ""))


def _is_legal(option: str, value: str) -> bool:
    """Return whether the program would take an option's value; options that are not known here take any."""
    try:
        match option:
            case "-s" | "-d":
                ip_network(value)
            case "--to-destination":
                address, _, port = value.rpartition(":")
                ip_address(address.strip("[]"))
                return _is_port(port)
            case "--dport":
                first, colon, last = value.partition(":")
                return _is_port(first) if not colon else _is_range(first, last)
            case "--comment":
                return len(value) <= MAX_COMMENT
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isdigit() and 0 < int(text) < 65536


def _is_range(first: str, last: str) -> bool:
    return first.isdigit() and last.isdigit() and int(first) <= int(last) < 65536


class FakeTables:
    """The tables of one family. Knobs: ``fail_next`` (a complaint), ``refuse`` (text no rule may contain)."""

    def __init__(self, sets: FakeSets) -> None:
        self.tables: dict[str, Chains] = {
            table: {chain: [] for chain in chains} for table, chains in BUILT_IN.items()
        }
        self._sets = sets
        sets.in_use = self._refers_to_set
        self.restored: list[str] = []
        """Every text that was handed in."""
        self.commands = 0
        """How often `run` or `save` was called."""
        self.fail_next = ""
        self.refuse = ""
        self.refuse_at_commit = ""
        self.counters: dict[str, int] = {}
        """The nfacct objects of the namespace."""
        self.has_nfacct = True
        """Like ``refuse``, but found out by the kernel and not by the program: no line is named."""

    def restore(self, text: str | Iterable[str]) -> None:
        """See `backend.Tables.restore`."""
        whole = text if isinstance(text, str) else "".join(text)
        self.restored.append(whole)
        if self.fail_next:
            complaint, self.fail_next = self.fail_next, ""
            raise RestoreFailed(complaint, None)
        table, chains = "", Chains()
        number = 0
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                if line.startswith("*"):
                    table = line[1:]
                    chains = {chain: list(rules) for chain, rules in self.tables[table].items()}
                elif line == "COMMIT":
                    self._commit(table, chains)
                    table = ""
                elif line and not line.startswith("#"):
                    self._line(chains, line)
            except Refusal as error:
                named = None if line == "COMMIT" else number
                raise RestoreFailed(f"fake: {error}; error occurred at line: {number}", named) from None
        if table:
            raise RestoreFailed(f"fake: COMMIT expected at line {number + 1}", number + 1)

    def save(self, table: str) -> str:
        """See `backend.Tables.save`."""
        self.commands += 1
        chains = self.tables[table]
        lines = [f"*{table}", *(f":{chain} {'ACCEPT' if chain.isalpha() else '-'} [0:0]" for chain in chains)]
        lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
        return "\n".join([*lines, "COMMIT", ""])

    def save_all(self) -> dict[str, str]:
        """See `iptables.Iptables.save_all`."""
        return {table: self.save(table) for table in self.tables}

    def in_use(self) -> frozenset[str]:
        """See `backend.Tables.in_use`."""
        return frozenset(self.tables)

    def has_match(self, match: str) -> bool:
        """See `backend.Tables.has_match`."""
        return match != "nfacct" or self.has_nfacct

    def ensure(self, name: str) -> None:
        """See `counters.Nfacct.ensure`."""
        self.counters.setdefault(name, 0)

    def fingerprint(self, table: str) -> bytes:
        """See `backend.Tables.fingerprint`."""
        return repr(self.tables[table]).encode()

    def run(self, *arguments: str, check: bool = True) -> Result:
        """See `backend.Tables.run`; knows `-t TABLE -S CHAIN`."""
        _, table, verb, chain = arguments
        assert verb == "-S"
        self.commands += 1
        rules = self.tables[table].get(chain)
        if rules is None:
            return Result(status=1, stdout="", stderr="No chain by that name.")
        return Result(status=0, stdout="\n".join(f"-A {chain} {rule}" for rule in rules), stderr="")

    def flush(self, table: str, *, chains_too: bool = True) -> None:
        """Do what `iptables -F; iptables -X` does, or (without ``chains_too``) -F alone."""
        kept = BUILT_IN[table] if chains_too else self.tables[table]
        self.tables[table] = {chain: [] for chain in kept}

    def _line(self, chains: Chains, line: str) -> None:
        if line.startswith(":"):
            match = _DECLARATION.fullmatch(line)
            if match is None or len(match[1]) > MAX_CHAIN_NAME:
                raise Refusal(f"bad chain declaration {line!r}")
            chains[match[1]] = []
            return
        verb, _, rest = line.partition(" ")
        chain, _, rule = rest.partition(" ")
        if chain not in chains:
            raise Refusal(f"no chain {chain}")
        if verb == "-X":
            self._delete_chain(chains, chain)
        elif verb == "-D":
            if rule not in chains[chain]:
                raise Refusal(f"no such rule in {chain}: {rule}")
            chains[chain].remove(rule)
        elif verb in ("-A", "-I"):
            self._check(chains, rule)
            chains[chain].insert(len(chains[chain]) if verb == "-A" else 0, rule)
        else:
            raise Refusal(f"unknown command {verb}")

    def _check(self, chains: Chains, rule: str) -> None:
        words, targets, bad = _read(rule)
        if self.refuse and self.refuse in rule:
            raise Refusal(f"refused: {rule}")
        if len(targets) != 1 and not (not targets and "nfacct" in words):
            raise Refusal(f"not exactly one target in {rule}")
        for target in targets:
            if target not in TARGETS and target not in chains:
                raise Refusal(f"couldn't load target {target}")
        if "--nfacct-name" in words and words[words.index("--nfacct-name") + 1] not in self.counters:
            raise Refusal("No such file or directory")
        if bad:
            raise Refusal(bad)
        for flag in ("--match-set", "--add-set", "--map-set"):
            if flag in words and words[words.index(flag) + 1] not in self._sets.sets:
                raise Refusal("set does not exist")

    def _delete_chain(self, chains: Chains, chain: str) -> None:
        if chains[chain]:
            raise Refusal(f"chain {chain} is not empty")
        if any(chain in rule.split() for rules in chains.values() for rule in rules):
            raise Refusal(f"chain {chain} is still referred to")
        del chains[chain]

    def _commit(self, table: str, chains: Chains) -> None:
        if self.refuse_at_commit and any(self.refuse_at_commit in r for rules in chains.values() for r in rules):
            raise Refusal("invalid argument")
        self.tables[table] = chains

    def _refers_to_set(self, name: str) -> bool:
        every = (rule for chains in self.tables.values() for rules in chains.values() for rule in rules)
        return any(name in rule.split() for rule in every)
