"""`FakeInterfaces`: a network namespace as a model, with the kernel's rules and knobs for its faults."""

from collections.abc import Callable, Iterable, Sequence

from kubeproxy.kernel.interfaces import HostAddress, InterfaceError
from kubeproxy.kernel.links import Address, Entry, Link, Neighbour, Route, Step, Verb, Wiring, entry_key


class FakeInterfaces:
    """A namespace that starts with the given links and entries. What a step breaks in the kernel, breaks here:

    a link takes its entries with it, a link that goes down or loses its last address loses its routes, a new
    MAC flushes the neighbours, a second address, route, neighbour or forwarding entry under the same key
    replaces the first.
    """

    def __init__(self, wiring: Wiring) -> None:
        self.links = {link.name: link for link in wiring.links}
        self.entries = {entry_key(entry): entry for entry in wiring.entries}
        self.addresses: list[HostAddress] = []
        self.routes: dict[str, Route] = {}
        self.refuse: Callable[[Step], bool] = lambda step: False
        """A fault: steps for which it says True are refused."""
        self.applied: list[Step] = []
        self._listeners: list[Callable[[], None]] = []

    def read(self, names: Iterable[str]) -> Wiring:
        """See `Interfaces.read`."""
        links = tuple(self.links[name] for name in names if name in self.links)
        seen = {link.name for link in links}
        return Wiring(
            links=links, entries=frozenset(entry for entry in self.entries.values() if entry.link in seen)
        )

    def apply(self, steps: Sequence[Step]) -> list[InterfaceError]:
        """See `Interfaces.apply`."""
        refused = []
        for step in steps:
            if self.refuse(step) or not self._do(step):
                refused.append(InterfaceError(f"{step.verb} {step.item}: refused"))
            else:
                self.applied.append(step)
        self.changed()
        return refused

    def host_addresses(self) -> list[HostAddress]:
        """See `Interfaces.host_addresses`."""
        return self.addresses

    def route_to(self, address: str) -> Route | None:
        """See `Interfaces.route_to`."""
        return self.routes.get(address)

    def watch_changes(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """See `Interfaces.watch_changes`."""
        self._listeners.append(on_change)
        return lambda: self._listeners.remove(on_change)

    def changed(self) -> None:
        """Tell every watcher that something happened."""
        for listener in self._listeners:
            listener()

    def remove_link(self, name: str) -> None:
        """Do what `ip link delete` does."""
        del self.links[name]
        self._drop(lambda entry: entry.link == name)

    def _do(self, step: Step) -> bool:
        item = step.item
        if isinstance(item, Link):
            return self._put_link(item) if step.verb is Verb.PUT else self._delete_link(item)
        if step.verb is Verb.PUT:
            if item.link not in self.links:
                return False
            self.entries[entry_key(item)] = item
            return True
        if self.entries.get(entry_key(item)) == item:
            del self.entries[entry_key(item)]
            self._after_removal(item)
        return True

    def _put_link(self, link: Link) -> bool:
        now = self.links.get(link.name)
        if now is None and (link.vxlan is None or link.vxlan.underlay not in self.links):
            return False
        if now is not None and now.mac != link.mac:
            self._drop(lambda entry: entry.link == link.name and isinstance(entry, Neighbour))
        self.links[link.name] = link
        return True

    def _delete_link(self, link: Link) -> bool:
        if link.name in self.links:
            self.remove_link(link.name)
        return True

    def _after_removal(self, gone: Entry) -> None:
        left = any(isinstance(entry, Address) and entry.link == gone.link for entry in self.entries.values())
        if isinstance(gone, Address) and not left:
            self._drop(lambda entry: entry.link == gone.link and isinstance(entry, Route))

    def _drop(self, unwanted: Callable[[Entry], bool]) -> None:
        self.entries = {key: entry for key, entry in self.entries.items() if not unwanted(entry)}
