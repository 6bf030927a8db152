"""The ipvs backend: Plans become virtual servers, sets and local addresses; failures become state.

What is to be done is decided in the pure modules beside this one (`books` knows what stands); here is the rim
that has it done. A change of endpoints is one message to IPVS and nothing else, however many Services there are.
A full sync reads all that the kernel holds and corrects what differs, so nothing is missing for a moment: at a
restart, after a failure, and when kube-proxy's ipvs mode is taken over.
"""

import logging
from collections.abc import Callable, Collection, Iterable

from kubeproxy.dataplane.base import Applied, Change, Plan, RuleCount, SyncFailed
from kubeproxy.dataplane.ipvs.books import Books
from kubeproxy.dataplane.ipvs.kernel_state import CommandsRefused, KernelState
from kubeproxy.dataplane.ipvs.names import set_name
from kubeproxy.dataplane.ipvs.refusals import Judgement, key_text
from kubeproxy.dataplane.ipvs.rulebook import Rulebook
from kubeproxy.dataplane.ipvs.sysctls import ensure_sysctls
from kubeproxy.dataplane.ipvs.translator import Translator
from kubeproxy.dataplane.ipvs.watch import Watch
from kubeproxy.dataplane.ipvs.work import entries_of
from kubeproxy.dataplane.ledger import Ledger
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.ipvs_types import VirtualServers, mark_key
from kubeproxy.kernel.sets import Sets
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.kernel.virtual_addresses import Addresses, AddressesRefused
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, Wanted
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER, SCHEDULERS, IpvsSettings
from kubeproxy.model.node import NodeState

log = logging.getLogger(__name__)


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
    ) -> None:
        """See the class; ``past``: where else sets may say which virtual servers are ours, or kube-proxy's."""
        self._family = family
        self._settings = settings
        self._sysctls = sysctls
        self._state = KernelState(family, sets, servers, addresses, local_addresses, settings.exclude_cidrs, past)
        self._rules = rules
        self._watch = Watch(family, self._state, self._rules)
        self._ledger = Ledger()
        self._books = Books()
        self._translator: Translator | None = None
        """None until everything was looked at."""
        self._lacking: set[str] = set()
        """Schedulers that the kernel was found not to have."""
        self._quarantine: dict[ServicePortName, tuple[ServiceState, str]] = {}
        """States that nothing stands for. The ledger has them, so they are left alone until they change."""
        self._rule_counts: tuple[RuleCount, ...] = ()
        self._needs_full = True

    @property
    def needs_full(self) -> bool:
        """See `Backend.needs_full`."""
        return self._needs_full

    def diff(self, wanted: Wanted, scope: Collection[Key] | None) -> Plan | None:
        """See `Backend.diff`."""
        if scope is not None and self._needs_full:
            raise SyncFailed("what stands in the kernel is not known; a full sync must come first")
        return self._ledger.plan(wanted, scope)

    def apply(self, plan: Plan) -> Applied:
        """See `Backend.apply`."""
        if plan.full and not self._needs_full:
            self._lacking.clear()  # somebody may have loaded the module
        self._needs_full = True  # until it is in
        changes = list(plan.changes)
        try:
            if plan.full:
                self._correct(plan.node, changes)
            else:
                self._change(changes)
        except CommandsRefused as refused:
            raise self._blame(_owners(self._books, refused.judgement), refused, changes) from refused
        except EntriesRefused as refused:
            raise self._blame(self._askers_of_entries(refused), refused, changes) from refused
        except AddressesRefused as refused:
            raise self._blame(self._askers_of_addresses(refused), refused, changes) from refused
        except (KernelError, OSError, OverflowError) as error:
            raise SyncFailed(f"ipvs mode: {error}; a full sync will follow") from error
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
        self._needs_full = bool(drift)
        return drift

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
        parts = {change.name: self._translator.part(change.name, change.after) for change in changes}
        self._state.perform(self._books.change(parts, self._state.destinations))
        self._enter(changes)

    def _correct(self, node: NodeState, changes: list[Change]) -> None:
        """Bring everything in, whatever stands there."""
        self._state.prepare()
        ensure_sysctls(self._sysctls, self._settings)
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
        self._enter(changes)

    def _correct_once(self, node: NodeState, changes: list[Change]) -> None:
        ground = self._state.ground(node)
        occupied = {key.mark for key in ground.servers}
        books = Books(ground.elsewhere)
        translator = Translator(
            node,
            self._settings,
            ground.elsewhere,
            self._quarantine,
            self._lacking,
            ground.marks(),
            lambda mark: mark in occupied or mark_key(self._family, mark) in books.draining.unwanted,
            self._translator,
        )
        parts = {change.name: translator.part(change.name, change.after) for change in changes}
        wanted = {each.server.key for part in parts.values() if part for each in part.virtuals}
        survey = self._state.survey(ground, wanted)
        self._books, self._translator = books, translator
        work = books.correct(survey, parts, self._state.source)
        self._state.perform(work, lambda: self._write_rules(node))
        self._state.clear_device(ground)

    def _write_rules(self, node: NodeState) -> None:
        self._rule_counts = self._rules.write(node)

    def _enter(self, changes: Iterable[Change]) -> None:
        """Record what is in the kernel, and let go of ports in quarantine that have changed or are gone."""
        assert self._translator is not None
        for change in changes:
            self._ledger.enter(change)
            self._translator.settled(change.name, change.after)
        states = self._ledger.states
        for name in [name for name, (state, _) in self._quarantine.items() if states.get(name) != state]:
            del self._quarantine[name]

    def _blame(
        self, culprits: Collection[ServicePortName], error: KernelError, changes: Iterable[Change]
    ) -> SyncFailed:
        """Put ports into quarantine; return what to raise."""
        if not culprits:
            return SyncFailed(f"ipvs mode: {error}; a full sync will follow")
        states = {**self._ledger.states, **{change.name: change.after for change in changes}}
        for name in culprits:
            state = states.get(name)
            if state is not None:
                self._quarantine[name] = (state, str(error))
        listed = ", ".join(map(str, culprits))
        return SyncFailed(f"{listed}: {error}; left out until they change", culprits)

    def _askers_of_entries(self, refused: EntriesRefused) -> list[ServicePortName]:
        members = {(name, member) for name, member in refused.refused}
        return [
            owner
            for owner, part in self._books.unions.parts.items()
            if any((set_name(self._family, which), member) in members for which, member in entries_of(part))
        ]

    def _askers_of_addresses(self, refused: AddressesRefused) -> list[ServicePortName]:
        parts = self._books.unions.parts.items()
        return [owner for owner, part in parts if not refused.refused.keys().isdisjoint(part.addresses)]

    def _applied(self, full: bool, changed: int) -> Applied:
        assert self._translator is not None
        no_local_internal, no_local_external = self._ledger.no_local()
        left_out = [state for state, _ in self._quarantine.values()]
        return Applied(
            full=full,
            changed=changed,
            ports=len(self._ledger.states) - len(left_out),
            endpoints=self._ledger.endpoints - sum(len(state.reachable) for state in left_out),
            quarantined={name: why for name, (_, why) in self._quarantine.items()},
            notes={**self._translator.notes, **_notes_on_foreign(self._books)},
            no_local_internal=no_local_internal,
            no_local_external=no_local_external,
            rules=self._rule_counts,
        )


def _owners(books: Books, judgement: Judgement) -> list[ServicePortName]:
    """Return the ports whose virtual servers the kernel will never have."""
    if judgement.momentary:
        return []
    owned = (books.unions.virtuals.get(key) for key, _ in judgement.culprits)
    return list(dict.fromkeys(each.owner for each in owned if each is not None))


def _notes_on_foreign(books: Books) -> dict[ServicePortName, str]:
    notes = {}
    for key in sorted(books.foreign, key=key_text):
        owned = books.unions.virtuals.get(key)
        if owned is not None:
            notes[owned.owner] = (
                f"virtual server {key_text(key)} is not served: somebody else's is there, and it leads elsewhere; "
                "delete it with ipvsadm if nobody needs it"
            )
    return notes
