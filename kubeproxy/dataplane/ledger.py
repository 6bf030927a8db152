"""What a backend knows it wrote: the ServiceState behind every port in the kernel.

Fragments are not kept: rendering is pure and cheap, so the old one is made again when a change needs it,
and 10,000 Services cost no second copy of themselves. (A large Service's runs keep what was made of them.)
"""

from collections.abc import Collection, Iterator, Mapping

from kubeproxy.dataplane.base import Change, LacksLocal, Plan, SyncFailed
from kubeproxy.model.desired import Refusal, ServiceState, Wanted
from kubeproxy.model.diff import diff
from kubeproxy.model.ident import Key, ServicePortName


class Ledger:
    """States by port, found by Service too; the changes of a Plan enter when they have been applied."""

    def __init__(self) -> None:
        self.states: dict[ServicePortName, ServiceState] = {}
        self.endpoints = 0
        """How many endpoints all ports have together."""
        self._ports_of: dict[Key, tuple[ServicePortName] | dict[ServicePortName, None]] = {}
        """A tuple for the one port that most Services have: it takes a fifth of the memory."""
        self._turned: dict[ServicePortName, LacksLocal] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.states.clear()
        self._ports_of.clear()
        self._turned.clear()
        self.endpoints = 0

    def plan(self, wanted: Wanted, scope: Collection[Key] | None, *, is_known: bool) -> Plan | None:
        """Return the Plan to ``wanted`` within ``scope`` (None: full), None when nothing differs.

        Raises SyncFailed for a part unless it ``is_known`` that all of this stands in the kernel.
        """
        if scope is None:
            return Plan(True, wanted.node, (Change(name, None, state) for name, state in wanted.ports))
        if not is_known:
            raise SyncFailed("what stands in the kernel is not known; a full sync must come first")
        have = {name: self.states[name] for key in scope for name in self._ports_of.get(key, ())}
        difference = diff(have, dict(wanted.ports))
        if not difference:
            return None
        changes = [Change(name, state, None) for name, state in difference.removed.items()]
        changes += [Change(name, before, after) for name, (before, after) in difference.changed.items()]
        changes += [Change(name, None, state) for name, state in difference.added.items()]
        return Plan(False, wanted.node, iter(changes))

    def enter(self, change: Change) -> None:
        """Record that a change is in the kernel."""
        name, before, after = change.name, self.states.pop(change.name, None), change.after
        if (lacks := _lacks_local(after)) != _lacks_local(before):
            self._turned[name] = lacks
        if before is not None:
            self.endpoints -= before.reach
            if after is None:
                self._forget(name)
        if after is not None:
            self.states[name] = after
            self.endpoints += after.reach
            if before is None:
                self._note(name)

    def turned(self) -> Mapping[ServicePortName, LacksLocal]:
        """Return which ports drop traffic for want of an endpoint here, or do no more, since this was last asked.

        After `clear` and a full plan these are all that do.
        """
        turned, self._turned = self._turned, {}
        return turned

    def _note(self, name: ServicePortName) -> None:
        key = name.key
        others = self._ports_of.get(key)
        if others is None:
            self._ports_of[key] = (name,)
        elif isinstance(others, tuple):
            self._ports_of[key] = dict.fromkeys((*others, name))
        else:
            others[name] = None

    def _forget(self, name: ServicePortName) -> None:
        ports = self._ports_of[name.key]
        if len(ports) > 1 and isinstance(ports, dict):
            del ports[name]
        else:
            del self._ports_of[name.key]

    def __iter__(self) -> Iterator[ServiceState]:
        """Go through every recorded state."""
        return iter(self.states.values())


def _lacks_local(state: ServiceState | None) -> LacksLocal:
    """Return whether internal, and external, traffic is dropped for want of an endpoint here."""
    if state is None or not (state.internal_local or state.external_local):
        return False, False
    return (
        state.internal_local and state.internal_refusal is Refusal.DROP,
        state.external_local and state.external_refusal is Refusal.DROP,
    )
