"""The nftables backend: Plans become one transaction of nf_tables each, and failures become state.

What is to be done is decided in the pure modules beside this one (`books` knows what stands); here is the rim that
has it done. A change is some elements of maps, however many Services there are. A full sync reads what the table
holds and corrects what differs, so nothing is missing for a moment: at a restart, after a failure, and when
kube-proxy's own table is taken over.
"""

import errno
import logging
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Self

from kubeproxy.dataplane.base import Applied, Change, Plan, SyncFailed
from kubeproxy.dataplane.collector import collector_paused
from kubeproxy.dataplane.ledger import Ledger
from kubeproxy.dataplane.nftables.books import Books, without_chains
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.layout import Layout
from kubeproxy.dataplane.nftables.limits import Limits
from kubeproxy.dataplane.nftables.pieces import PORTS_A_PIECE, Piece, chunks, divided, owner_of, steps_of
from kubeproxy.dataplane.nftables.reading import survey_beside, survey_to_correct
from kubeproxy.dataplane.nftables.render import Unrenderable
from kubeproxy.dataplane.nftables.repairs import asking, can_be_undone, rebuilding, undoing
from kubeproxy.dataplane.nftables.sheet import Sheet
from kubeproxy.dataplane.nftables.survey import Correction, Survey, skeleton
from kubeproxy.dataplane.nftables.watch import Commits, Watch
from kubeproxy.dataplane.remarks import Joined, Quarantine
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.types import Change as Step
from kubeproxy.kernel.nf_tables.types import DeleteTable
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, Wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.node import NodeState

log = logging.getLogger(__name__)

TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"

ATTEMPTS = 8
"""How often the table is read anew to find whose steps are refused, since others changed something meanwhile."""

_MOMENTARY = frozenset(
    (errno.ENOMEM, errno.ENOBUFS, errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.EPERM, errno.ERESTART)
)
"""Refusals that are about the moment, or the agent's rights, and no port's fault."""


class NftablesBackend:
    """See `dataplane.base.Backend`."""

    def __init__(
        self,
        table: NfTable,
        sysctls: Sysctls,
        family: Family,
        commits: Commits | None = None,
        journal: Journal | None = None,
    ) -> None:
        """See the class; ``commits`` is shared by all backends of a process, ``journal`` with who listens."""
        self._table = table
        self._sysctls = sysctls
        self._family = family
        self._commits = commits or Commits()
        self._watch = Watch(table, self._commits, journal or Journal())
        self._ledger = Ledger()
        self._books: Books | None = None
        """None until everything was looked at."""
        self._stale_chains: set[str] = set()
        """Chains that nothing leads to any more."""
        self._quarantine = Quarantine()
        self._limits = Limits()
        self._left_out = Joined()
        self._is_known = False
        """Whether ledger and books say what should be in the kernel."""
        self._has_drifted = False
        """Whether something else was found there."""

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
        if plan.full and not self.needs_full:
            self._quarantine.clear()  # somebody may have loaded a module
        self._is_known = False  # until it is in
        changes = list(plan.changes)
        try:
            if plan.full:
                self._correct(plan.node, changes)
            else:
                self._change(changes)
        except (KernelError, OSError, OverflowError) as error:
            raise SyncFailed(f"nftables mode: {error}; a full sync will follow") from error
        self._is_known, self._has_drifted = True, False
        return self._applied(plan.full, len(changes))

    def observe(self) -> str:
        """See `Backend.observe`; chains that no Service needs any more are deleted too."""
        if self.needs_full or self._books is None:
            return ""
        try:
            drift = self._watch.drift(self._books, self._standing(), self._stale_chains)
            if not drift and not self._watch.has_edits:  # else what it deletes may be gone already
                self._sweep(self._books)
        except (KernelError, OSError) as error:
            drift = f"table could not be looked at: {error}"
        self._has_drifted = bool(drift)
        return drift

    def glance(self) -> str:
        """See `Backend.glance`: the kernel tells of everything itself."""
        return ""

    @property
    def repairer(self) -> Self:
        """See `Backend.repairer`."""
        return self

    def repair(self, *, whole: bool) -> bool:
        """See `Repairer.repair`."""
        books = self._books
        if books is None or not self._is_known or (self._has_drifted and not whole):
            return False
        try:
            with collector_paused(when=whole):
                is_done = self._rebuild(books) if whole else self._undo(books)
        except (KernelError, OSError) as error:
            log.info("not put right %s: %s", "as a whole" if whole else "one by one", error)
            return False
        self._has_drifted &= not is_done
        return is_done

    def cleanup(self) -> None:
        """See `Backend.cleanup`."""
        self._is_known = False
        self._ledger.clear()
        self._books = None
        self._stale_chains.clear()
        try:
            if self._table.exists():
                self._commit([DeleteTable()])
        except (KernelError, OSError) as error:
            log.warning("the nftables table could not be deleted: %s", error)

    def _commit(self, steps: Sequence[Step], after: int | None = None) -> None:
        self._commits.count(self._family, lambda: self._table.commit(steps, after))

    def _undo(self, books: Books) -> bool:
        """Undo what others were heard to have changed; return whether that could be done."""
        edits = self._watch.take()
        if edits is None or not can_be_undone(edits, books, self._stale_chains):
            return False
        states = filter(self._stands, asking(edits, books, self._ledger))
        self._commit(list(undoing(edits, books, states)))
        self._watch.undone()
        return True

    def _rebuild(self, books: Books) -> bool:
        """Make the table what the books say that it is."""
        self._watch.begin()
        found, besides = survey_beside(self._table)
        self._commit(list(rebuilding(found, besides, books, self._standing())))
        self._stale_chains = set(found.class_chains())
        return True

    def _standing(self) -> Iterator[ServiceState]:
        """Yield the states of all ports that are in the kernel."""
        return filter(self._stands, self._ledger)

    def _change(self, changes: list[Change]) -> None:
        """Bring some ports in."""
        books = self._books
        assert books is not None, "a partial plan needs a full one before it"
        before, after = Sheet(), Sheet()
        for change in changes:
            stood = change.before if change.before is not None and self._stands(change.before) else None
            if stood is not None:
                books.render(stood, before)
            books.follow(change.name, stood, change.after)
            self._limits.forget(change.name)
        waiting = self._limits.waiting({change.name.key for change in changes})
        for state in chain((change.after for change in changes), waiting):
            if state is not None:
                self._render(books, state, after)
        self._commit(list(books.change(before, after)))
        for change in changes:
            self._ledger.enter(change)
        self._quarantine.settle(changes)

    def _correct(self, node: NodeState, changes: list[Change]) -> None:
        """Bring everything in, whatever stands there."""
        try:
            self._correct_in_pieces(node, changes)
        except Refused as refused:
            if refused.code in _MOMENTARY:
                raise
            self._correct_by_port(node, changes)
        self._ledger.clear()
        for change in changes:
            self._ledger.enter(change)
        self._quarantine.keep(self._ledger.states)

    def _correct_in_pieces(self, node: NodeState, changes: list[Change]) -> None:
        """Do it in pieces as large as may be, whatever others do meanwhile."""
        try:
            self._commit(steps_of(self._pieces(node, changes, PORTS_A_PIECE, self._read())))
        except Refused as refused:
            if refused.code != errno.EMSGSIZE:
                raise
            self._commit(steps_of(self._pieces(node, changes, 1, self._read())))

    def _correct_by_port(self, node: NodeState, changes: list[Change]) -> None:
        """Try again with each port's steps apart, so that a refusal names whose they are."""
        for _ in range(ATTEMPTS - 1):
            try:
                return self._try_by_port(node, changes)
            except Refused as refused:
                if refused.code != errno.ERESTART:
                    raise
        return self._try_by_port(node, changes)

    def _try_by_port(self, node: NodeState, changes: list[Change]) -> None:
        """Do it, unless somebody changes anything after the table was read: that is no port's fault."""
        generation, found = self._table.generation(), self._read()
        pieces = self._pieces(node, changes, 1, found)
        try:
            # Who replaces the table does not depend on what was read.
            self._commit(steps_of(pieces), after=None if found.strange else generation)
        except Refused as refused:
            owner = owner_of(pieces, refused.change)
            state = next((change.after for change in changes if change.name == owner), None)
            if owner is None or state is None or refused.code in _MOMENTARY:
                raise
            self._quarantine.hold(owner, state, str(refused))
            raise SyncFailed(f"{owner}: {refused}; left out until it changes", [owner]) from refused

    def _read(self) -> Survey:
        """Return all that the kernel holds; from here on it is watched who else changes it."""
        self._watch.begin()
        return survey_to_correct(self._table)

    def _pieces(self, node: NodeState, changes: list[Change], ports: int, found: Survey) -> list[Piece]:
        """Return the steps from all that the kernel holds to all that is wanted, so many ports in a piece.

        The books are those of the end.
        """
        liberal = self._sysctls.read(TCP_BE_LIBERAL) not in ("", "0")
        layout = Layout(node, drop_invalid=not liberal)
        books = self._books = Books(node, layout, found)
        self._limits = Limits()
        correction = Correction(found)
        first = list(skeleton(found, layout))
        pieces = [Piece(None, first)]
        for some in chunks(changes, ports):
            sheet = Sheet()
            for change in some:
                if change.after is not None:
                    self._render(books, change.after, sheet)
            # Chains before the elements that lead there, and with those of the first port that has the class.
            chains = books.enter(sheet)
            steps = [*chains, *correction.towards(sheet)]
            pieces.append(Piece(some[0].name, divided(steps)) if ports == 1 else Piece(None, steps))
        books.opened()
        first += books.admitting(found.lengths())
        # What nobody asks for any more need not go at one moment.
        pieces.append(Piece(None, divided([*correction.rest(), *books.not_admitting(found.lengths())])))
        self._stale_chains = set(found.class_chains())
        return pieces

    def _render(self, books: Books, state: ServiceState, sheet: Sheet) -> None:
        """Add a port to a sheet, unless it is left out, or comes to be so now."""
        if self._quarantine.holds(state.name, state) or not self._limits.fits(state):
            return
        try:
            books.render(state, sheet)
        except Unrenderable as why:
            self._quarantine.hold(state.name, state, str(why))
            self._limits.forget(state.name)

    def _stands(self, state: ServiceState) -> bool:
        """Return whether a state that is in the ledger is in the kernel."""
        return not (self._quarantine.holds(state.name, state) or self._limits.too_large.holds(state.name, state))

    def _sweep(self, books: Books) -> None:
        """Delete what no Service needs any more: of chains first what leads there, as old kernels want it."""
        self._commit(books.sweep_lengths())
        unused = books.classes.unused()
        if unused:
            self._commit(books.unpick(unused))
            for which in unused:
                books.classes.drop(which)
                self._stale_chains.add(which.chain)
        self._stale_chains -= books.chain_names()
        if self._stale_chains:
            stale = sorted(self._stale_chains)
            try:
                self._commit(without_chains(stale))
            except Refused as refused:
                if refused.code != errno.EBUSY:
                    raise
                return  # packets are on their way through one; the next look finds it idle
            self._stale_chains.clear()

    def _applied(self, full: bool, changed: int) -> Applied:
        left_out, too_large = self._quarantine, self._limits.too_large
        return Applied(
            full=full,
            changed=changed,
            ports=len(self._ledger.states) - len(left_out) - len(too_large),
            endpoints=self._ledger.endpoints - left_out.endpoints - too_large.endpoints,
            quarantined=self._left_out.of(left_out.told(), too_large.told()),
            lacks_local=self._ledger.turned(),
        )
