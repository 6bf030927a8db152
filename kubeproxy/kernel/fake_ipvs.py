"""A model of IPVS for tests, ours and our users', with knobs for what can go wrong.

tests/uml/test_ipvs.py holds it against the real kernel: the same commands get the same answers.
"""

import errno
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

import msgspec

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipvs_overview import Outline, Overview, pack_entry
from kubeproxy.kernel.ipvs_types import (
    Command,
    Counted,
    Destination,
    Found,
    Server,
    ServerKey,
    Timeouts,
    Verb,
    singly,
)
from kubeproxy.model.addresses import Family, family_of

SCHEDULERS = frozenset(
    ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"),
)
"""Those of Linux 6.1."""

_Place = tuple[str, int]


class FakeVirtualServers:
    """One network namespace's table, with the kernel's rules (`virtual_servers.VirtualServers`)."""

    def __init__(self, *, present: bool = True, schedulers: Iterable[str] = SCHEDULERS) -> None:
        self.present = present
        """Whether this kernel has IPVS."""
        self.schedulers = set(schedulers)
        self.families = set(Family)
        """Those that this kernel was built for."""
        self.tells_all = True
        """Whether the kernel answers the question for an overview."""
        self.table: dict[ServerKey, Server] = {}
        self.log: list[Command] = []
        """What was asked for, refused or not, in order."""
        self.runs: list[list[Command]] = []
        """The same, call by call."""
        self.failures: list[KernelError] = []
        """Raised by the next calls, one each, with nothing done."""
        self.refusals: dict[Verb, list[int]] = {}
        """Errors with which the next commands of a kind are refused, one each; 0 lets one pass."""
        self.no_hosts: set[str] = set()
        """Addresses that this machine's routes have for nobody's: its networks' broadcast addresses."""
        self._destinations: dict[ServerKey, dict[_Place, Destination]] = {}
        self._connections: dict[tuple[ServerKey, _Place], tuple[int, int, int]] = {}
        self._timeouts = Timeouts(900, 120, 300)

    def set_connections(
        self, key: ServerKey, address: str, port: int, *, active: int = 0, inactive: int = 0, persistent: int = 0
    ) -> None:
        """Set how many connections a destination has.

        As in the kernel, they stay while it is deleted, and are there when it is added again.
        """
        self._connections[key, (address, port)] = (active, inactive, persistent)

    def available(self) -> bool:
        """See `VirtualServers`."""
        return self.present

    def has_scheduler(self, name: str) -> bool:
        """See `VirtualServers`. Leaves no trace in the log."""
        self._ask()
        return name in self.schedulers

    def serves(self, family: Family) -> bool:
        """See `VirtualServers`. Leaves no trace in the log."""
        self._ask()
        return family in self.families

    def servers(self, family: Family) -> dict[ServerKey, Server]:
        """See `VirtualServers`."""
        self._ask()
        return {key: server for key, server in self.table.items() if key.family is family}

    def count(self, family: Family) -> int | None:
        """See `VirtualServers`."""
        return sum(key.family is family for key in self.table) if family is Family.V4 else None

    def overview(self, family: Family) -> Overview | None:
        """See `VirtualServers`. The newest is first."""
        if family is not Family.V4 or not self.tells_all:
            return None
        held = self._destinations
        ours = (server for key, server in reversed(self.table.items()) if key.family is family)
        packed = b"".join(pack_entry(Outline(server, len(held[server.key]))) for server in ours)
        return Overview(memoryview(packed))

    def counted_servers(self, family: Family) -> dict[ServerKey, Counted]:
        """See `VirtualServers`. The counters are all 0."""
        return {key: Counted(server) for key, server in self.servers(family).items()}

    def destinations(self, key: ServerKey) -> list[Found]:
        """See `VirtualServers`. The newest is first."""
        self._ask()
        places = self._destinations.get(key, {})
        return [
            Found(destination, *self._connections.get((key, place), (0, 0, 0)))
            for place, destination in reversed(places.items())
        ]

    def run(self, commands: Sequence[Command]) -> list[int]:
        """See `VirtualServers`."""
        self._ask()
        single = list(singly(commands))
        self.log += single
        self.runs.append(single)
        return [self._refused(command.verb) or self._run(command) for command in single]

    def timeouts(self) -> Timeouts:
        """See `VirtualServers`."""
        self._ask()
        return self._timeouts

    def set_timeouts(self, *, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        """See `VirtualServers`."""
        self._ask()
        old = self._timeouts
        self._timeouts = Timeouts(tcp or old.tcp, tcp_fin or old.tcp_fin, udp or old.udp)

    def flush(self) -> bool:
        """See `VirtualServers`."""
        if not self.present:
            return False
        self._ask()
        self.table.clear()
        self._destinations.clear()
        return True

    def _ask(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if not self.present:
            raise KernelError("IPVS: this kernel has none; modprobe ip_vs")

    def _refused(self, verb: Verb) -> int:
        codes = self.refusals.get(verb)
        return codes.pop(0) if codes else 0

    def _run(self, command: Command) -> int:
        server, key = command.server, command.server.key
        if key.family not in self.families:
            return errno.EAFNOSUPPORT
        if command.verb is Verb.ADD_SERVER:
            if key in self.table:
                return errno.EEXIST
        elif key not in self.table:
            return errno.ESRCH
        if command.destination is not None:
            return self._change_destination(command.verb, key, command.destination)
        if command.verb is Verb.DELETE_SERVER:
            del self.table[key], self._destinations[key]
            return 0
        if server.scheduler not in self.schedulers:
            return errno.ENOENT
        self.table[key] = server
        self._destinations.setdefault(key, {})
        return 0

    def _change_destination(self, verb: Verb, key: ServerKey, destination: Destination) -> int:
        places, place = self._destinations[key], (destination.address, destination.port)
        if verb is not Verb.DELETE_DESTINATION:
            if family_of(destination.address) is not key.family:
                return errno.EINVAL
            if destination.weight < 0:
                return errno.ERANGE
        if (place in places) is (verb is Verb.ADD_DESTINATION):
            return errno.EEXIST if verb is Verb.ADD_DESTINATION else errno.ENOENT
        if verb is Verb.DELETE_DESTINATION:
            del places[place]
            return 0
        if verb is Verb.ADD_DESTINATION and (
            destination.address in self.no_hosts or _is_no_host(destination.address)
        ):
            return errno.EINVAL
        places[place] = msgspec.structs.replace(destination)
        return 0


def _is_no_host(address: str) -> bool:
    """Whether the kernel takes an address for nobody's, wherever it is."""
    parsed = ip_address(address)
    return parsed.is_multicast or parsed.is_unspecified or (parsed.version == 6 and parsed.is_link_local)
