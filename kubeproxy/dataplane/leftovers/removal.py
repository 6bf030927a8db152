"""Removing what other proxies and other modes left, and in a cleanup what ours left too.

Called when what is to serve instead stands in the kernel already, so that no connection meets a gap: those that
are established go on by their conntrack entries, whoever wrote the rule that translated them, and those through
IPVS by virtual servers that stay until the last of them has ended (`leaving`).

What cannot be removed is told in words, each with what to do, and is worth trying again; so is what waits, which
is no fault. Blocking.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

from kubeproxy.dataplane.iptables import localnet, names
from kubeproxy.dataplane.ipvs.names import ACCESS, NFT_TABLE, set_name
from kubeproxy.dataplane.leftovers import upstream
from kubeproxy.dataplane.leftovers.chains import removal
from kubeproxy.dataplane.leftovers.guard import GUARD, TABLE, guard
from kubeproxy.dataplane.leftovers.leaving import NOTHING_LEFT, STAYING_SETS, Leaving, Left
from kubeproxy.dataplane.leftovers.nft_table import hand_over, is_there
from kubeproxy.dataplane.leftovers.upstream import BUT_IPTABLES, BUT_OUR_IPVS, EVERY_OWNED, Mode, Owned
from kubeproxy.kernel.conntrack import Conntrack
from kubeproxy.kernel.exec import CommandMissing, KernelError
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.kernel.sets import AlsoRead, Sets
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.kernel.tracing_nft import TABLE as TRACE_TABLE
from kubeproxy.kernel.virtual_addresses import Addresses
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record


class Tables(Protocol):
    """The iptables programs of one family and one flavour (`kernel.iptables.Iptables`)."""

    def restore(self, text: str | Iterable[str]) -> None:
        """Commit a restore text."""
        ...

    def in_use(self) -> frozenset[str]:
        """Return the tables that somebody uses."""
        ...

    def save(self, table: str) -> str:
        """Return `iptables-save` of one table."""
        ...


class Nftables(Protocol):
    """nftables' tables (`kernel.nftables.Nftables`)."""

    def delete_table(self, family: Family, name: str) -> bool:
        """Delete a table; return whether there was one."""
        ...


class Devices(Protocol):
    """Network devices (`kernel.devices.Devices`)."""

    def kind(self, name: str) -> str | None:
        """Return the kind of a device, None when there is no such device."""
        ...


class Counters(Protocol):
    """Packet counters of rules (`kernel.nfacct.Nfacct`)."""

    def delete(self, name: str) -> bool:
        """Delete a counter unless a rule counts in it; return whether it is gone (or never was)."""
        ...


class Kernel(Record, frozen=True, kw_only=True):
    """Everything in which a proxy may have left something."""

    tables: Callable[[Family, Flavour], Tables]
    sets: Callable[[Family], Sets]
    nftables: Nftables
    devices: Devices
    servers: VirtualServers
    addresses: Callable[[Family], Addresses]
    conntrack: Callable[[Family], Conntrack]
    counters: Counters
    sysctls: Sysctls
    local_addresses: Callable[[Family], Collection[str]]
    """This machine's."""
    nft_table: Callable[[Family], NfTable] | None = None
    """That of ipvs mode on a node without iptables."""


class Kept(Record, frozen=True, kw_only=True):
    """What serves now, and stays."""

    mode: Mode
    flavour: Flavour | None = None
    """Where its iptables rules are, if it has any."""
    excluded: tuple[str, ...] = ()
    """In these CIDRs no virtual server is kube-proxy's (`--ipvs-exclude-cidrs`)."""


class Removed(Record, frozen=True, kw_only=True):
    """What could not be removed."""

    complaints: tuple[str, ...] = ()
    """Faults, each with what to do."""
    waiting: tuple[str, ...] = ()
    """What goes by itself as soon as nobody needs it any more."""


def remove(kernel: Kernel, families: Iterable[Family], kept: Kept | None) -> Removed:
    """Remove from these families all that is not ``kept``; None: all, and at once. Return what is left."""
    complaints: list[str] = []
    waiting: list[str] = []
    for family in families:
        _told(complaints, f"nftables, {family.label}", _hand_over(kernel, family, kept))
        left: Left | None = None if kept is None or kept.mode is not Mode.IPVS else NOTHING_LEFT
        if left is None:
            try:
                left = _leave(kernel, family, complaints, kept)
            except (KernelError, OSError) as error:
                complaints.append(f"IPVS, {family.label}: {error}")
        if left is not None and left.waits:
            waiting.append(_in_words(family, left))
        for flavour in Flavour:
            chains = _chains(kernel, family, flavour, kept, left)
            _told(complaints, f"iptables-{flavour}, {family.label}", chains)
        # Sets come after the rules that refer to them, in both flavours.
        _told(complaints, f"ipsets, {family.label}", _sets(kernel, family, kept, left))
        _told(complaints, f"nftables, {family.label}", _nft(kernel, family, kept, left))
    if kept is None or kept.mode is Mode.NFTABLES:
        _told(complaints, "nfacct", _counters(kernel))
    return Removed(complaints=tuple(complaints), waiting=tuple(waiting))


def owned_in(flavour: Flavour, kept: Kept | None) -> Owned:
    """Return what of one flavour's tables is to go. Pure."""
    if kept is None or kept.mode is Mode.NFTABLES or kept.flavour is not flavour:
        return EVERY_OWNED
    return BUT_IPTABLES if kept.mode is Mode.IPTABLES else BUT_OUR_IPVS


def kept_sets(family: Family, kept: Kept | None) -> tuple[str, ...]:
    """Return the ipsets that stay. Pure."""
    by_mode: Mapping[Mode, tuple[str, ...]] = {
        Mode.IPTABLES: names.SETS[family],
        Mode.IPVS: upstream.OUR_IPVS_SETS[family] if kept and kept.flavour else (),
        Mode.NFTABLES: (),
    }
    return () if kept is None else by_mode[kept.mode]


def _told(complaints: list[str], where: str, found: Iterator[str]) -> None:
    """Take in complaints; an error is one, and says nothing against what comes next."""
    try:
        for complaint in found:
            complaints.append(f"{where}: {complaint}")
    except (KernelError, OSError) as error:
        complaints.append(f"{where}: {error}")


def _chains(
    kernel: Kernel, family: Family, flavour: Flavour, kept: Kept | None, left: Left | None
) -> Iterator[str]:
    owned = owned_in(flavour, kept)
    tables = kernel.tables(family, flavour)
    try:
        is_wanted = (left is None or left.waits) and _left_table(kernel, family) is None
        if kept is not None and is_wanted and _guards(kept, flavour, tables):
            owned = owned.without(GUARD)
            if left is not None and (text := guard(family, tables.save(TABLE))):
                tables.restore(text)
        yield from remove_chains(tables, owned)
        if family is Family.V4 and not (kept and kept.mode is Mode.IPTABLES and kept.flavour is flavour):
            _route_localnet(kernel, tables, kept)
    except CommandMissing as missing:
        # A host that has not got the programs has nothing there, as a rule; of legacy tables the kernel can tell.
        if flavour is Flavour.LEGACY and tables.in_use():
            yield f"legacy tables are in use, and nobody can look into them for a proxy's rules: {missing}"


def _guards(kept: Kept, flavour: Flavour, tables: Tables) -> bool:
    """Return whether it is here that addresses are guarded while connections through virtual servers end.

    Where ipvs mode has left a table of its own, that one guards (`nft_table`).
    """
    if kept.mode is not Mode.NFTABLES:
        return kept.flavour is flavour
    # It has no iptables of its own: where the ipvs mode had its rules they stand on.
    return TABLE in tables.in_use() and f"\n:{ACCESS} " in tables.save(TABLE)


def _route_localnet(kernel: Kernel, tables: Tables, kept: Kept | None) -> None:
    """Take back the sysctl that we set, or leave the note that we did with what serves now."""
    if "nat" not in tables.in_use() or f"\n:{localnet.MARK} " not in tables.save("nat"):
        return
    if kept is not None and kept.mode is Mode.IPTABLES and kept.flavour is not None:
        localnet.leave_mark(kernel.tables(Family.V4, kept.flavour))
        localnet.remove_mark(tables)
    else:
        localnet.turn_off(tables, kernel.sysctls)


def remove_chains(tables: Tables, owned: Owned) -> Iterator[str]:
    """Remove a mode's chains and jumps from the tables; yield complaints. Raises KernelError, OSError."""
    # A table that nobody uses, or that this kernel does not even have, must not be made by looking into it.
    present = tables.in_use()
    for table in (each for each in owned.chains if each in present):
        plan = removal(table, tables.save(table), owned)
        if plan.text:
            tables.restore(plan.text)
        for chain, rule in plan.stuck:
            yield f"chain {chain} of table {table} stays, empty: delete the rule that leads to it, `{rule}`"


def _sets(kernel: Kernel, family: Family, kept: Kept | None, left: Left | None) -> Iterator[str]:
    """Remove sets; ``left`` is None when nobody knows whether virtual servers stay, that only sets tell of."""
    stay = kept_sets(family, kept)
    sets = kernel.sets(family)
    clients = sets.named(names.ENDPOINT_PREFIX) if kept is None or kept.mode is not Mode.IPTABLES else ()
    known = (*upstream.IPVS_SETS[family], *upstream.OUR_IPVS_SETS[family], *names.SETS[family])
    if left is None:
        stay = (*stay, *upstream.IPVS_SETS[family], *upstream.OUR_IPVS_SETS[family])
    elif left.waits:
        stay = (*stay, *(set_name(family, which) for which in STAYING_SETS))
    for name in dict.fromkeys((*known, *sorted(clients))):
        if name not in stay and not sets.destroy(name):
            yield f"set {name} stays: delete the iptables rule that refers to it"


def _counters(kernel: Kernel) -> Iterator[str]:
    for name in names.COUNTERS:
        if not kernel.counters.delete(name):
            yield f"counter {name} stays: delete the iptables rule that counts in it"


def _nft(kernel: Kernel, family: Family, kept: Kept | None, left: Left | None) -> Iterator[str]:
    if kept is None or kept.mode is not Mode.NFTABLES:
        kernel.nftables.delete_table(family, upstream.NFTABLES_TABLE)
    if kept is None:
        kernel.nftables.delete_table(family, TRACE_TABLE)  # a killed `trace --live` may have left it
    # Its sets tell of the virtual servers that stay, and its chains guard their addresses.
    if left is not None and not left.waits and not _serves_by_nft(kept):
        kernel.nftables.delete_table(family, NFT_TABLE)
    yield from ()


def _hand_over(kernel: Kernel, family: Family, kept: Kept | None) -> Iterator[str]:
    """Let new connections pass by the rules that ipvs mode has without iptables."""
    if kernel.nft_table is not None and not _serves_by_nft(kept):
        # Ipvs mode by iptables has the same addresses, and connections to them that are to come to IPVS.
        hand_over(kernel.nft_table(family), guarding=kept is not None and kept.mode is not Mode.IPVS)
    yield from ()


def _left_table(kernel: Kernel, family: Family) -> NfTable | None:
    """Return the table that ipvs mode has without iptables, None where there is none."""
    table = None if kernel.nft_table is None else kernel.nft_table(family)
    return table if table is not None and is_there(table) else None


def _serves_by_nft(kept: Kept | None) -> bool:
    return kept is not None and kept.mode is Mode.IPVS and kept.flavour is None


def _leave(kernel: Kernel, family: Family, complaints: list[str], kept: Kept | None) -> Left:
    name, kind = upstream.IPVS_DEVICE, kernel.devices.kind(upstream.IPVS_DEVICE)
    has_device = kind == upstream.IPVS_DEVICE_KIND
    if kind is not None and not has_device:
        expected = upstream.IPVS_DEVICE_KIND
        text = (
            f"IPVS: device {name} is of kind {kind or 'unknown'}, not {expected}: it is not kube-proxy's and stays"
        )
        if text not in complaints:
            complaints.append(text)
    sets = kernel.sets(family)
    seen = None
    if (table := _left_table(kernel, family)) is not None:
        # There may be no ipsets on this kernel. Those of an ipvs mode before may be there yet.
        past, sets = sets, NftSets(table)
        seen = AlsoRead(sets, past)
    leaving = Leaving(
        family,
        sets,
        kernel.servers,
        kernel.addresses(family),
        kernel.conntrack(family),
        partial(kernel.local_addresses, family),
        kept.excluded if kept else (),
        seen,
    )
    return leaving.leave(has_device=has_device, at_once=kept is None)


def _in_words(family: Family, left: Left) -> str:
    return (
        f"IPVS, {family.label}: {left.connections} connections ({left.established} established) still pass "
        "virtual servers; these are removed when they have ended"
    )
