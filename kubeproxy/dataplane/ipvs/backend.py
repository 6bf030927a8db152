"""The ipvs backend: Plans become virtual servers, sets and local addresses; failures become state.

What is to be done is decided in the pure modules beside this one (`books` knows what stands); here is the rim
that has it done. A change of endpoints is one message to IPVS and nothing else, however many Services there are.
A full sync reads all that the kernel holds and corrects what differs, so nothing is missing for a moment: at a
restart, after a failure, and when kube-proxy's ipvs mode is taken over.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Self

from kubeproxy.dataplane.base import Applied, Change, Plan, RuleCount, SyncFailed
from kubeproxy.dataplane.collector import collector_paused
from kubeproxy.dataplane.ipvs.blame import Refused, culprits, full_sets
from kubeproxy.dataplane.ipvs.books import Books
from kubeproxy.dataplane.ipvs.kernel_state import CommandsRefused, Endpoints, KernelState
from kubeproxy.dataplane.ipvs.names import set_name
from kubeproxy.dataplane.ipvs.quarantine import Quarantine
from kubeproxy.dataplane.ipvs.rulebook import Rulebook
from kubeproxy.dataplane.ipvs.substitutes import Replaced
from kubeproxy.dataplane.ipvs.sysctls import ensure_family, ensure_sysctls
from kubeproxy.dataplane.ipvs.translator import Translator
from kubeproxy.dataplane.ipvs.watch import Watch
from kubeproxy.dataplane.ipvs.work import Work
from kubeproxy.dataplane.ledger import Ledger
from kubeproxy.dataplane.remarks import Joined
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.ipvs_types import ServerKey, mark_key
from kubeproxy.kernel.sets import Sets
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.kernel.virtual_addresses import Addresses, AddressesRefused
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, Wanted
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER, SCHEDULERS, IpvsSettings
from kubeproxy.model.node import NodeState

log = logging.getLogger(__name__)

States = Mapping[ServicePortName, ServiceState | None]


class IpvsBackend:
    """See `dataplane.base.Backend`."""

    def __init__(
        self,
        rules: Rulebook,
        sets: Sets,
        servers: VirtualServers,
        addresses: Addresses,
        sysctls: Sysctls,
        family: Family,
        settings: IpvsSettings,
        local_addresses: Callable[[], Collection[str]],
        past: Sets | None = None,
        replaced: Replaced | None = None,
    ) -> None:
        """See the class; ``past``: where else sets may say which virtual servers are ours, or kube-proxy's.

        ``replaced`` is told which schedulers others serve instead of.
        """
        self._family = family
        self._settings = settings
        self._sysctls = sysctls
        self._state = KernelState(family, sets, servers, addresses, local_addresses, settings.exclude_cidrs, past)
        self._rules = rules
        self._replaced = replaced or Replaced()
        self._watch = Watch(family, self._state, self._rules)
        self._ledger = Ledger()
        self._books = Books()
        self._translator: Translator | None = None
        """None until everything was looked at."""
        self._lacking: set[str] = set()
        """Schedulers that the kernel was found not to have."""
        self._quarantine = Quarantine()
        self._left_out, self._notes = Joined(), Joined()
        self._rule_counts: tuple[RuleCount, ...] = ()
        self._needs_full = True

    @property
    def needs_full(self) -> bool:
        """See `Backend.needs_full`."""
        return self._needs_full

    def diff(self, wanted: Wanted, scope: Collection[Key] | None) -> Plan | None:
        """See `Backend.diff`."""
        return self._ledger.plan(wanted, scope, is_known=not self._needs_full)

    def apply(self, plan: Plan) -> Applied:
        """See `Backend.apply`."""
        with collector_paused(when=plan.full):
            return self._apply(plan)

    def _apply(self, plan: Plan) -> Applied:
        if plan.full and not self._needs_full:
            self._lacking.clear()  # somebody may have loaded the module
            self._quarantine.clear()
        self._needs_full = True  # until it is in
        self._watch.take_amiss()  # and what was to be repaired alone is written by this
        changes = list(plan.changes)
        try:
            if plan.full:
                self._correct(plan.node, changes)
            else:
                self._change(changes)
            self._let_in()
        except (CommandsRefused, EntriesRefused, AddressesRefused) as refused:
            raise self._blame(refused, changes) from refused
        except (KernelError, OSError, OverflowError) as error:
            raise SyncFailed(f"ipvs mode: {error}; a full sync will follow") from error
        self._watch.written(full=plan.full)
        self._needs_full = False
        return self._applied(plan.full, len(changes))

    def observe(self) -> str:
        """See `Backend.observe`; what has no connections any more is deleted too."""
        if self._needs_full:
            return ""
        drift = self._watch.drift(self._books)
        if not drift:
            try:
                self._watch.end_drained(self._books)
            except (KernelError, OSError) as error:
                drift = f"what has drained could not be deleted: {error}"
        if not drift and self._quarantine.fitting(self._books):
            drift = "there is room again for Service ports that were left out"
        self._needs_full = bool(drift)
        return drift

    def glance(self) -> str:
        """See `Backend.glance`: what is told of all virtual servers (of IPv4), and how large legacy tables are."""
        return "" if self._needs_full else self._watch.glance(self._books)

    @property
    def repairer(self) -> Self | None:
        """See `Backend.repairer`: none but for virtual servers that the last look found amiss."""
        return self if self._watch.is_mendable else None

    def repair(self, *, whole: bool) -> bool:
        """See `Repairer.repair`: to look at the whole is what a full sync does."""
        amiss = self._watch.take_amiss()
        if whole or not amiss:
            return False
        try:
            if self._carry_out(self._books.mend(amiss)):
                return False  # a full sync leaves out the endpoints that the kernel refuses, and tells of them
            self._watch.end_drained(self._books)  # as others' destinations, which mostly nobody uses yet
        except (KernelError, OSError) as error:
            log.info("not put right virtual server by virtual server: %s", error)
            return False
        self._watch.written()
        self._needs_full = False
        return True

    def cleanup(self) -> None:
        """See `Backend.cleanup`."""
        self._needs_full = True
        self._ledger.clear()
        self._books = Books()
        self._translator = None
        for complaint in (*self._rules.remove(), *self._state.clear()):
            log.warning("%s", complaint)

    def _change(self, changes: list[Change]) -> None:
        """Bring some ports in."""
        assert self._translator is not None, "a partial plan needs a full one before it"
        states: dict[ServicePortName, ServiceState | None] = {change.name: change.after for change in changes}
        states = {**self._translator.squeezed_out(states), **states}
        parts = self._translator.parts(states)
        for name, needs in list(self._quarantine.crowded(parts, self._books)):
            state = states[name]
            assert state is not None, "what goes needs no room"
            full = ", ".join(set_name(self._family, which) for which in needs)
            self._quarantine.hold(name, state, f"there is no room for it in {full}", needs)
            parts |= self._translator.parts({name: state})
        self._perform(self._books.change(parts, self._state.destinations), states)
        self._enter(changes, full=False)

    def _correct(self, node: NodeState, changes: list[Change]) -> None:
        """Bring everything in, whatever stands there."""
        self._state.prepare()
        ensure_sysctls(self._sysctls, self._settings)
        ensure_family(self._sysctls, self._family)
        for _ in SCHEDULERS:
            try:
                self._correct_once(node, changes)
                break
            except CommandsRefused as refused:
                found = refused.judgement.lacking - self._lacking
                if not found or DEFAULT_SCHEDULER in found:
                    raise
                self._lacking |= found
        self._ledger.clear()
        self._enter(changes, full=True)

    def _correct_once(self, node: NodeState, changes: list[Change]) -> None:
        ground = self._state.ground(node)
        occupied = {key.mark for key in ground.servers}
        books = Books(ground.elsewhere)
        translator = Translator(
            node,
            self._settings,
            ground.elsewhere,
            self._quarantine.holds,
            self._lacking,
            ground.marks(),
            lambda mark: mark in occupied or mark_key(self._family, mark) in books.draining.unwanted,
            self._translator,
        )
        states = {change.name: change.after for change in changes}
        parts = translator.parts(states)
        virtuals = (each for part in parts.values() if part for each in part.virtuals)
        wanted = {each.server.key for each in virtuals} if ground.servers else frozenset[ServerKey]()
        survey = self._state.survey(ground, wanted)
        self._books, self._translator = books, translator
        self._replaced.note(self._family, translator.replaced)
        work = books.correct(survey, parts, self._state.source)
        self._perform(work, states, lambda: self._write_rules(node))
        self._state.clear_device(ground)

    def _write_rules(self, node: NodeState) -> None:
        self._rule_counts = self._rules.write(node)

    def _perform(self, work: Work, states: States, write_rules: Callable[[], None] | None = None) -> None:
        """Carry out work for ports in these states; endpoints that the kernel will not have are left out."""
        assert self._translator is not None
        refused = self._carry_out(work, write_rules)
        if refused:
            self._translator.leave_out({each.address: why for _, each, why in refused})
            # Who has lost the place to another port asks for the same endpoints' other entries all the same.
            names = {name for key, _, _ in refused for name in self._books.unions.claimants(key)}
            states = {**{name: self._ledger.states.get(name) for name in names}, **states}
            parts = self._translator.parts({name: states[name] for name in names})
            self._carry_out(self._books.change(parts, self._state.destinations))

    def _carry_out(self, work: Work, write_rules: Callable[[], None] | None = None) -> Endpoints:
        if write_rules is None:  # else all is compared afterwards
            self._watch.writing(work)
        return self._state.perform(work, write_rules)

    def _let_in(self) -> None:
        """Bring in ports that there was no room for, as far as there is now."""
        assert self._translator is not None
        fitting = self._quarantine.fitting(self._books)
        if fitting:
            for name in fitting:
                self._quarantine.release(name)
            parts = self._translator.parts(fitting)
            self._perform(self._books.change(parts, self._state.destinations), fitting)

    def _enter(self, changes: Iterable[Change], *, full: bool) -> None:
        """Record what is in the kernel, and let go of ports in quarantine that have changed or are gone."""
        assert self._translator is not None
        for change in changes:
            self._ledger.enter(change)
            self._translator.settled(change.name, change.after)
        if full:
            self._quarantine.keep(self._ledger.states)
        else:
            self._quarantine.settle(changes)

    def _blame(self, refused: Refused, changes: Iterable[Change]) -> SyncFailed:
        """Put ports into quarantine; return what to raise."""
        found = culprits(refused, self._books, self._family)
        if not found:
            return SyncFailed(f"ipvs mode: {refused}; a full sync will follow")
        self._quarantine.note_full(full_sets(refused, self._family))
        states = {**self._ledger.states, **{change.name: change.after for change in changes}}
        for name, needs in found.items():
            state = states.get(name)
            if state is not None:
                self._quarantine.hold(name, state, str(refused), needs)
        until = "there is room" if any(found.values()) else "they change"
        listed = ", ".join(map(str, found))
        return SyncFailed(f"{listed}: {refused}; left out until {until}", tuple(found))

    def _applied(self, full: bool, changed: int) -> Applied:
        assert self._translator is not None
        held, too_large = self._quarantine, self._translator.too_large
        return Applied(
            full=full,
            changed=changed,
            ports=len(self._ledger.states) - len(held) - len(too_large),
            endpoints=self._ledger.endpoints - held.endpoints - too_large.endpoints,
            quarantined=self._left_out.of(held.told(), too_large.told()),
            notes=self._notes.of(self._translator.notes.told(), self._books.foreign_notes()),
            lacks_local=self._ledger.turned(),
            rules=self._rule_counts,
        )
