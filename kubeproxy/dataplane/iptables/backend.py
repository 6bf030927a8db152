"""The iptables backend: Plans become one iptables-restore each, and failures become state.

Everything between "what was found" and "what is written" is in the pure modules beside this one; here is the
rim that runs them against the kernel, remembers what was written, and puts a Service whose rules the kernel
refuses into quarantine so that the others are served.

Cost of a change: rendering is that of the change; the kernel's part is iptables' own (legacy replaces the
whole table each time: 15 ms at 1,000 Services, 200 ms at 10,000).
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Protocol, Self

from kubeproxy.dataplane.base import Applied, Change, Plan, RuleCount, SyncFailed
from kubeproxy.dataplane.collector import collect_new, collector_paused
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.canary import Canary
from kubeproxy.dataplane.iptables.clients import ClientSets
from kubeproxy.dataplane.iptables.counters import Nfacct, usable
from kubeproxy.dataplane.iptables.dispatch import Dispatch
from kubeproxy.dataplane.iptables.localnet import MARK, Localnet
from kubeproxy.dataplane.iptables.mender import Mender
from kubeproxy.dataplane.iptables.missed import Missed
from kubeproxy.dataplane.iptables.observer import Observer
from kubeproxy.dataplane.iptables.quarantine import Again, Quarantine
from kubeproxy.dataplane.iptables.render import Renderer
from kubeproxy.dataplane.iptables.repairs import Standing
from kubeproxy.dataplane.iptables.script import Script
from kubeproxy.dataplane.iptables.sets import SharedSet, cluster_ips, hairpin_entries
from kubeproxy.dataplane.iptables.tables import CHAINS, Skeleton, saved_in
from kubeproxy.dataplane.iptables.told import Told
from kubeproxy.dataplane.ledger import Ledger
from kubeproxy.dataplane.leftovers.removal import remove_chains
from kubeproxy.dataplane.leftovers.upstream import IPTABLES_OWNED
from kubeproxy.kernel.exec import CommandFailed, KernelError, Result
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.iptables import RESOURCE_PROBLEM, TIMED_OUT, RestoreFailed
from kubeproxy.kernel.sets import SizedSets
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import Wanted
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.node import NodeState

log = logging.getLogger(__name__)

TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"

BATCH = 800
"""Changes whose entries go into the sets together, while the text about them streams."""

MAX_CULPRITS = 16
"""More refused ports than this are no matter of single Services."""


class Tables(Protocol):
    """The iptables programs (`kernel.iptables.Iptables`), or a model of them (`fake.FakeTables`)."""

    def restore(self, text: str | Iterable[str]) -> None:
        """Commit a restore text. Raises RestoreFailed."""
        ...

    def save(self, table: str) -> str:
        """Return `iptables-save` of one table."""
        ...

    def in_use(self) -> frozenset[str]:
        """Return the tables that somebody uses."""
        ...

    def has_match(self, match: str) -> bool:
        """Return whether the kernel takes rules with `-m MATCH`."""
        ...

    def fingerprint(self, table: str) -> bytes:
        """Return, cheaply, a value that differs once rules of a table have been removed."""
        ...

    def run(self, *arguments: str, check: bool = True) -> Result:
        """Run one iptables command."""
        ...


class IptablesBackend:
    """See `dataplane.base.Backend`."""

    def __init__(
        self,
        tables: Tables,
        sets: SizedSets,
        sysctls: Sysctls,
        family: Family,
        nfacct: Nfacct | None = None,
        told: Told | None = None,
    ) -> None:
        """See the class; without ``nfacct`` no packets are counted.

        ``told``: what the kernel has told somebody of others' changes; without it looks find out.
        """
        self._tables = tables
        self._sets = sets
        self._sysctls = sysctls
        self._localnet = Localnet(tables, sysctls)
        self._family = family
        self._ledger = Ledger()
        self._dispatch = Dispatch(family)
        self._hairpin = SharedSet(sets, names.LOCAL_ENDPOINTS[family], SetType.ENDPOINTS, hairpin_entries)
        self._cluster_ips = SharedSet(sets, names.CLUSTER_IPS[family], SetType.ADDRESSES, cluster_ips)
        self._clients = ClientSets(sets)
        self._quarantine = Quarantine()
        self._told = told
        self._missed = Missed(told)
        self._canary = Canary(tables, CHAINS, None if told else self._amiss)
        self._mender = Mender(tables, told)
        self._skeleton: Skeleton | None = None
        """The fixed rules that stand."""
        self._nfacct = nfacct
        self._rules: tuple[RuleCount, ...] = ()
        self._is_known = False
        """Whether all that is in the ledger was written, and nothing that only a full plan tries again."""
        self._has_drifted = False
        """Whether a look has found something else there."""

    @property
    def needs_full(self) -> bool:
        """See `Backend.needs_full`."""
        return self._has_drifted or not self._is_known

    def diff(self, wanted: Wanted, scope: Collection[Key] | None) -> Plan | None:
        """See `Backend.diff`."""
        return self._ledger.plan(wanted, scope, is_known=not self.needs_full)

    def apply(self, plan: Plan) -> Applied:
        """See `Backend.apply`."""
        with collector_paused(when=plan.full):
            return self._apply(plan)

    def _apply(self, plan: Plan) -> Applied:
        if plan.full:
            self._quarantine.begin_full(unhurried=not self.needs_full)
        try:
            changes = self._commit(plan)
        except _Refused as refused:
            if plan.full and not _is_transient(refused.error):
                self._isolate(refused, plan.node)
            raise SyncFailed(f"{refused.error}; a full sync will follow") from refused.error
        self._release(changes, full=plan.full)
        return Applied(
            full=plan.full,
            changed=len(changes),
            ports=len(self._ledger.states) - len(self._quarantine),
            endpoints=self._ledger.endpoints - self._quarantine.endpoints,
            quarantined=self._quarantine.told(),
            lacks_local=self._ledger.turned(),
            rules=self._rules,
        )

    def observe(self) -> str:
        """See `Backend.observe`. Microseconds while nobody else changes rules, else a look by iptables."""
        if self.needs_full:
            return ""
        missed = self._missed.look(self._amiss(table, b"") for table in CHAINS)
        drift = missed or self._canary.drift() or self._hairpin.drift() or self._cluster_ips.drift()
        self._has_drifted = bool(drift)
        # What was told is mostly on its way to be repaired already, unless nobody listens any more.
        return drift or ("chains were changed by somebody" if self._told and self._told.is_pending else "")

    def glance(self) -> str:
        """See `Backend.glance`: sizes of tables, of which legacy ones tell nothing else, and of sets."""
        if self.needs_full:
            return ""
        if self._told is None and not self._canary.is_undisturbed():
            return "tables were changed"
        try:
            return self._hairpin.drift() or self._cluster_ips.drift()
        except (KernelError, OSError):
            return "sets do not tell their size"

    @property
    def repairer(self) -> Self:
        """See `Backend.repairer`."""
        return self

    def repair(self, *, whole: bool) -> bool:
        """See `Repairer.repair`; to look at the whole is no cheaper than a full sync."""
        # Where single chains are told, a look finds what is more than these: a flushed table, a set.
        if whole or not self._is_known or (self._has_drifted and self._told):
            return False
        try:
            with collector_paused():
                is_done = self._mender.mend(self._canary, self._standing())
        except (KernelError, OSError) as error:
            log.info("not put right chain by chain: %s", error)
            self._is_known = is_done = False
        # What a count does not show (a rule in another's place, a renamed chain) may be amiss all the same.
        self._has_drifted &= not is_done or self._told is None
        return is_done

    def _standing(self) -> Standing:
        skeleton, held = self._skeleton, self._quarantine.states
        assert skeleton is not None, "a full plan comes first"
        render = Renderer(skeleton.node).render
        fragments = (render(state) for state in self._ledger if held.get(state.name) != state)
        return Standing(skeleton, self._dispatch, fragments)

    def cleanup(self) -> None:
        """See `Backend.cleanup`."""
        self._is_known = False
        self._ledger.clear()
        for complaint in remove_chains(self._tables, IPTABLES_OWNED):
            log.warning("%s", complaint)
        is_in_use = "nat" in self._tables.in_use()
        self._localnet.leave(marked=is_in_use and MARK in saved_in("nat", self._tables.save("nat")).chains)
        # While the other flavour's rules refer to a set it stays; removing those takes it along.
        for set_name in (*names.SETS[self._family], *self._sets.named(names.ENDPOINT_PREFIX)):
            self._sets.destroy(set_name)

    def _amiss(self, table: str, fingerprint: bytes) -> str:
        """Return what others did to ours in a table that they have changed, "" when nothing shows."""
        written = next((each.standing for each in self._rules if each.table == table), None)
        return self._mender.look(table, fingerprint, written)

    def _release(self, changes: list[Change], *, full: bool) -> None:
        """Let go of ports in quarantine that have changed, or are not wanted any more."""
        if full:
            self._quarantine.keep(self._ledger.states)
        else:
            self._quarantine.settle(changes)

    def _commit(self, plan: Plan) -> list[Change]:
        """Bring a plan in and return its changes. Raises SyncFailed, or _Refused when no port is to blame."""
        self._is_known = False  # until it is in
        # A full plan writes all of ours, whatever others have done.
        is_ours = plan.full or self._canary.is_undisturbed()
        try:
            with Observer(self._tables) as observer:
                if plan.full:
                    self._mender.forget()
                    observer.start()
                    self._hairpin.adopt()
                    self._cluster_ips.adopt()
                    self._clients.adopt()
                changes, written = self._restore(plan, observer)
                if plan.full:
                    is_marked = MARK in observer.saved("nat").chains
                    self._localnet.follow(wanted=plan.node.nodeports_on_loopback, marked=is_marked)
            self._hairpin.sweep(None if plan.full else written)
            self._cluster_ips.sweep(None if plan.full else changes)
            room = self._clients.sweep()
            self._canary.written(undisturbed=is_ours)
        except (KernelError, OSError) as error:
            raise SyncFailed(f"iptables mode: {error}; a full sync will follow") from error
        self._is_known, self._has_drifted = not (room and self._quarantine.has_crowded()), False
        return changes

    def _restore(self, plan: Plan, observer: Observer) -> tuple[list[Change], list[Change]]:
        """Run a plan's restore; return its changes, and what of them is written."""
        changes: list[Change] = []
        written: list[Change] = []
        taken = {"nat": 0, "filter": 0}

        def on_batch(more: Sequence[Change], with_rules: Sequence[Change]) -> None:
            changes.extend(more)
            written.extend(with_rules)
            if len(changes) - taken["nat"] >= BATCH:
                fill_sets_of("nat")

        def fill_sets_of(table: str) -> None:
            if table == "nat":
                self._hairpin.take(written[taken[table] :])
            else:
                self._cluster_ips.take(changes[taken[table] :])
            taken[table] = len(changes)

        def text() -> Iterator[str]:
            yield from script.pieces()
            self._enter(changes, full=plan.full)

        # Only a full plan writes the chain that this sysctl decides about.
        drop_invalid = plan.full and self._sysctls.read(TCP_BE_LIBERAL) in ("", "0")
        counters = usable(self._tables, self._nfacct) if plan.full and self._nfacct else frozenset[str]()
        skeleton = Skeleton(plan.node, drop_invalid=drop_invalid, counters=counters)
        renderer = Renderer(plan.node)
        fill = partial(
            Script,
            renderer=renderer,
            skeleton=skeleton,
            dispatch=Dispatch(self._family) if plan.full else self._dispatch,
            observed=observer.saved,
            held=self._quarantine.states,
            prepare=self._clients.make,
        )
        script = fill(plan, on_written=self._clients.change, on_batch=on_batch, before_commit=fill_sets_of)
        try:
            # Text that breaks off before COMMIT (a set refuses an entry, say) commits nothing.
            self._write(text())
        except RestoreFailed as error:
            if plan.full:  # A partial one may be refused because others have removed what it builds on.
                self._blame(error, fill(Plan(True, plan.node, iter(changes))), changes)
            raise _Refused(error, changes) from error
        for table in taken:
            fill_sets_of(table)  # unless it was written, and so has been
        if plan.full:
            self._skeleton = skeleton
        self._dispatch = script.dispatch
        self._rules = script.tally.after(self._rules)
        for change, why in script.unsafe:
            self._hold(change, why, Again.NEVER)
        for change, why in script.crowded:
            self._hold(change, why, Again.ALWAYS)
        return changes, written

    def _write(self, text: Iterator[str]) -> None:
        """Commit a restore text, if there is any: some changes are of the sets alone. Raises RestoreFailed."""
        if (first := next(text, None)) is not None:
            self._tables.restore(chain((first,), text))

    def _enter(self, changes: Iterable[Change], *, full: bool) -> None:
        """Keep the ledger while the kernel commits. Should it refuse, the ledger is not trusted and made anew."""
        if full:
            self._ledger.clear()
        for change in changes:
            self._ledger.enter(change)
        if full:
            collect_new()

    def _blame(self, error: RestoreFailed, script: Script, changes: list[Change]) -> None:
        """Put the port whose line was refused into quarantine and raise SyncFailed, if there is one."""
        owner = script.owner(error.line) if error.line is not None else None
        for change in changes:
            if change.name == owner and change.after is not None:
                self._hold(change, str(error), Again.UNHURRIED)
                raise SyncFailed(f"{owner}: {error}; it is left out until it changes", [owner]) from error

    def _hold(self, change: Change, why: str, again: Again) -> None:
        if change.after is not None:
            self._quarantine.hold(change.name, change.after, why, again)

    def _isolate(self, refused: "_Refused", node: NodeState) -> None:
        """Find, by halving, which ports make a full plan fail when the complaint names no line of theirs.

        Leaves the kernel without some Services for the second or two until the next full sync. Raises
        SyncFailed with the culprits, or without when it is no matter of a few ports.
        """
        try:
            self._commit(Plan(True, node, iter(())))
        except _Refused as worse:
            raise SyncFailed(f"{worse.error}; not even tables without Services can be written") from worse.error
        groups, culprits = [refused.changes], list[ServicePortName]()
        while groups and len(culprits) < MAX_CULPRITS:
            group = groups.pop()
            try:
                self._commit(Plan(False, node, iter(group)))
            except _Refused as again:
                if _is_transient(again.error):
                    break
                if len(group) > 1:
                    groups += [group[len(group) // 2 :], group[: len(group) // 2]]
                    continue
                culprits.append(group[0].name)
                self._hold(group[0], str(again.error), Again.NEVER)
        self._is_known = False
        raise SyncFailed(f"{refused.error}; left out until they change: {_listed(culprits)}", culprits)


class _Refused(Exception):
    """A restore failed and no single port could be blamed from the complaint."""

    def __init__(self, error: RestoreFailed, changes: list[Change]) -> None:
        super().__init__(str(error))
        self.error = error
        self.changes = changes


def _listed(ports: list[ServicePortName]) -> str:
    return ", ".join(str(name) for name in ports) or "none found"


def _is_transient(error: RestoreFailed) -> bool:
    """Return whether the complaint is about the moment and not about the text: a lock, a race, a time-out."""
    cause = error.__cause__
    return isinstance(cause, CommandFailed) and cause.status in (TIMED_OUT, RESOURCE_PROBLEM)
