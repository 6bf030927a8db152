"""The iptables programs: one IP family in one flavour, blocking.

Everything is written by `iptables-restore --noflush`: one transaction a table, which commits wholly or not at
all, and whose text may be streamed so that the program parses while later pieces are still being made.
python-iptables is not in this path: it takes no xtables lock, loses writes silently, and costs 25 times as
much a rule (shared/reference/kernel.md §1).

Two flavours live side by side on most systems: *legacy* (xt tables, one replace of the whole table a commit)
and *nft* (the same commands compiled to nf_tables). Rules in one do not show in the other, so an agent must
write where the rest of the host writes: `detect_flavour`.
"""

import contextlib
import re
from collections.abc import Iterable
from enum import StrEnum

from kubeproxy.kernel.exec import CommandFailed, CommandMissing, Exec, KernelError, Result
from kubeproxy.kernel.xtables import (
    has_nft,
    legacy_extent,
    legacy_has_match,
    legacy_tables,
    nft_generation,
    nft_has_match,
)
from kubeproxy.model.addresses import Family

LOCK_WAIT_SECONDS = 5
"""How long a single command waits for another program that holds the xtables lock (kube-proxy waits as long)."""

TIMED_OUT, RESOURCE_PROBLEM = -1, 4
"""Exit statuses: killed after too long; the lock is held, or another writer was first."""

HINT_CHAINS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
"""Made in the mangle table by a kubelet, in the flavour that the host is meant to use."""
PROBE_CHAIN = "KUBE-PROXY-PROBE"
"""Made in nft's nat table, and deleted at once, to learn whether the kernel has that table."""


NFT_TABLES = frozenset(("filter", "nat", "mangle", "raw", "security"))
"""What iptables-nft shows; it makes a table with its first chain, not by asking."""


class Flavour(StrEnum):
    """Which kernel interface the iptables commands speak to."""

    LEGACY = "legacy"
    NFT = "nft"


RESTORE_SECONDS = {Flavour.LEGACY: 60, Flavour.NFT: 300}
"""How long a restore may take. nft takes minutes for a table that legacy loads in seconds.

It waits for the lock as long: iptables-legacy never stops the alarm that ends its wait, and when that rings while
it waits for more text it takes the text to be at its end: `COMMIT expected`.
"""

RESTORE_GRACE_SECONDS = 5
"""So much later it is killed, that it may say itself who held the lock."""


class RestoreFailed(KernelError):
    """A restore text was refused and nothing of that table was written; ``line`` counts from 1."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


_LINE = re.compile(r"\bline:? (\d+)")


def _program(family: Family, flavour: Flavour, verb: str = "") -> str:
    stem = "iptables" if family is Family.V4 else "ip6tables"
    return f"{stem}-{flavour}{verb}"


class Iptables:
    """Runs iptables' programs. Safe from any thread; the xtables lock serialises writers on the machine."""

    def __init__(self, execute: Exec, family: Family, flavour: Flavour) -> None:
        self._execute = execute
        self.family = family
        self.flavour = flavour

    def restore(self, text: str | Iterable[str]) -> None:
        """Commit a restore text without touching chains that it does not name. Raises RestoreFailed."""
        program = _program(self.family, self.flavour, "-restore")
        seconds = RESTORE_SECONDS[self.flavour]
        argv = [program, "--wait", str(seconds), "--noflush", "--counters"]
        try:
            self._execute.run(argv, stdin=text, timeout=seconds + RESTORE_GRACE_SECONDS)
        except CommandFailed as error:
            found = _LINE.search(error.stderr)
            detail = " ".join(error.stderr.split())[:500]
            message = f"{program}: {detail or 'no message'} (exit status {error.status})"
            raise RestoreFailed(message, int(found[1]) if found else None) from error

    def save(self, table: str) -> str:
        """Return `iptables-save` of one table."""
        program = _program(self.family, self.flavour, "-save")
        return self._execute.run([program, "-t", table]).stdout

    def save_all(self) -> dict[str, str]:
        """Return `iptables-save` of every table that somebody uses, by one run of the program."""
        program = _program(self.family, self.flavour, "-save")
        found: dict[str, str] = {}
        for text in self._execute.run([program]).stdout.split("\n*")[1:]:
            found[text.partition("\n")[0]] = f"*{text}"
        return found

    def in_use(self) -> frozenset[str]:
        """Return the tables that somebody uses; `save` of another may make it. Raises KernelError, OSError."""
        if self.flavour is Flavour.LEGACY:
            return legacy_tables(self.family)
        return NFT_TABLES if has_nft() else frozenset()

    def fingerprint(self, table: str) -> bytes:
        """Return, in O(1), a value that differs once rules have vanished from a table."""
        return legacy_extent(self.family, table) if self.flavour is Flavour.LEGACY else nft_generation()

    def has_match(self, match: str) -> bool:
        """Return whether the kernel takes rules with `-m MATCH`: programs know more matches than some kernels."""
        known = legacy_has_match if self.flavour is Flavour.LEGACY else nft_has_match
        return known(self.family, match)

    def run(self, *arguments: str, check: bool = True) -> Result:
        """Run `iptables ARGUMENTS` under the lock."""
        argv = [_program(self.family, self.flavour), "--wait", str(LOCK_WAIT_SECONDS), *arguments]
        return self._execute.run(argv, check=check)


def tables_trouble(
    execute: Exec, family: Family, flavour: Flavour, tables: Iterable[str] = ("nat", "filter", "mangle")
) -> str:
    """Return why one family's tables cannot be used, "" when they can."""
    program = _program(family, flavour)
    for table in tables:
        try:
            argv = [program, "--wait", str(LOCK_WAIT_SECONDS), "-t", table, "-S", "OUTPUT"]
            result = execute.run(argv, check=False)
        except CommandMissing as error:
            return str(error)
        if result.status not in (0, RESOURCE_PROBLEM):
            why = " ".join(result.stderr.split())[:300]
            return f"{program} -t {table}: {why} (exit status {result.status})"
    return ""


def detect_flavour(execute: Exec, own_chain: str, family: Family = Family.V4) -> Flavour:
    """Find the flavour that this host uses, by the rules of kubernetes-sigs/iptables-wrappers, and one of ours.

    A kubelet's hint decides; else where ``own_chain`` is, since rules that a predecessor left in the other
    flavour would stay in force for ever; else the flavour that holds more rules; else what plain `iptables` is,
    but for nft on a kernel that has no nftables for IP (User-Mode Linux). Legacy tables that nobody opened yet
    are not opened by asking. Raises CommandMissing when iptables is absent.
    """
    saved = {}
    for flavour in (Flavour.NFT, Flavour.LEGACY):
        with contextlib.suppress(CommandMissing):
            saved[flavour] = execute.run([_program(family, flavour, "-save")], check=False).stdout
    for marks in (HINT_CHAINS, (own_chain,)):
        for flavour, text in saved.items():
            if any(f":{mark} " in text for mark in marks):
                return flavour
    rules = {flavour: sum(line.startswith("-A") for line in text.splitlines()) for flavour, text in saved.items()}
    if not rules:
        raise CommandMissing(f"{_program(family, Flavour.NFT)}: not installed (Debian: apt-get install iptables)")
    if len(set(rules.values())) == 1 and len(rules) > 1:
        default = _default_flavour(execute, family)
        return Flavour.LEGACY if default is Flavour.NFT and _nft_is_missing(execute, family) else default
    return max(rules, key=lambda flavour: rules[flavour])


def _nft_is_missing(execute: Exec, family: Family) -> bool:
    """Whether the kernel has no nftables for this family: iptables-nft reads its tables all the same, as empty."""
    argv = [_program(family, Flavour.NFT), "-t", "nat"]
    made = execute.run([*argv, "-N", PROBE_CHAIN], check=False)
    if made.status == 0:
        execute.run([*argv, "-X", PROBE_CHAIN], check=False)
    return made.status != 0 and "not supported" in made.stderr


def _default_flavour(execute: Exec, family: Family) -> Flavour:
    program = "iptables" if family is Family.V4 else "ip6tables"
    try:
        version = execute.run([program, "--version"], check=False).stdout
    except CommandMissing:
        return Flavour.NFT
    return Flavour.LEGACY if "legacy" in version else Flavour.NFT
