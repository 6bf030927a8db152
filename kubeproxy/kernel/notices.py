"""Being told by the kernel when others change what is ours: multicast groups of netlink. For the event loop.

While somebody listens to nf_tables, the kernel makes a message of its own for each rule or element of a
transaction, and holds all of them until it is done: some 8 KiB each, 330 MB for 40,000 elements (Linux 6.18).
So whoever listens closes the socket while large transactions of his own are under way, opens it again, and looks
once.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple, Protocol

from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, NETLINK_ROUTE, address_text
from kubeproxy.kernel.notice_messages import (
    GROUP_ADDRESS,
    GROUP_LINK,
    GROUP_NFTABLES,
    GROUP_ROUTE,
    AddressNotice,
    LinkNotice,
    RouteNotice,
    TableNotice,
    Transaction,
    is_transaction,
    port_of,
    route_notices,
    table_notices,
)
from kubeproxy.kernel.virtual_addresses_messages import ROUTE_PROTOCOL
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family

ROOM_BYTES = 8 << 20
"""What may lie unread, as the kernel counts: some 1,500 datagrams of nf_tables' with dozens of changes each."""
MOST_A_READ = 64
"""Datagrams that are taken in at once, for the event loop's sake: a few milliseconds."""
DATAGRAM_BYTES = 1 << 16

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33


class Hint(NamedTuple):
    """What the kernel told of somebody else's change."""

    text: str
    is_certain: bool
    """Whether something of ours was changed for sure, or a look would not show it; else it is worth a look."""


class HintSource(Protocol):
    """What tells of changes that concern us. Lives on the event loop, in the network namespace that opens it."""

    def open(self) -> int:
        """Begin to listen; return what to wait for until it can be read. Raises OSError."""
        ...

    def read(self) -> Hint | None:
        """Take in what was told; return what of it concerns us, if anything does. Never blocks, raises nothing."""
        ...

    def close(self) -> None:
        """Stop listening; does no harm when nobody does."""
        ...


LOST = Hint("the kernel could not tell of every change", is_certain=False)
LOST_FOR_GOOD = Hint(LOST.text, is_certain=True)
"""The same for whose look sees less than the kernel tells of: everything has to be compared."""


class _Listener:
    """A netlink socket that only listens, and what is made of what it hears."""

    def __init__(self, protocol: int, groups: Sequence[int], writers: Writers, lost: Hint = LOST) -> None:
        self._protocol, self._groups = protocol, groups
        self._writers = writers
        self._lost = lost
        self._socket: socket.socket | None = None
        self._is_losing = False
        """Whether something was lost, and more may be: see `read`."""

    def open(self) -> int:
        """See `HintSource.open`."""
        self.close()
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, self._protocol)
        try:
            with contextlib.suppress(PermissionError):  # then what the machine gives everybody must do
                opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, ROOM_BYTES)
            opened.bind((0, 0))  # without a port of its own it would be left out
            self._writers.forget(self._writers.ended())  # as nothing of theirs will be heard here
            for group in self._groups:
                opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError:
            opened.close()
            raise
        self._socket, self._is_losing = opened, False
        return opened.fileno()

    def close(self) -> None:
        """See `HintSource.close`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def read(self) -> Hint | None:
        """See `HintSource.read`.

        The kernel says once that there is no room, and then drops without a word until all that lies there has
        been read: so the loss is told when it is heard of, and again when it is over.
        """
        ended = self._writers.ended()
        datagrams, is_lossy, is_all = self._take_in()
        ours = self._writers.ours()  # Asked now: a port that began meanwhile may have told of itself already.
        if is_all:
            self._writers.forget(ended)
        hint = self._judge(datagrams, ours)
        is_over = self._is_losing and is_all
        if is_lossy or self._is_losing:
            self._missed()
            hint = hint or self._unfinished()
        self._is_losing = (is_lossy or self._is_losing) and not is_all
        if hint is not None and hint.is_certain:
            return hint
        return self._lost if is_lossy or is_over else hint

    def _judge(self, datagrams: Sequence[bytes], ours: Container[int]) -> Hint | None:
        """Return what of the datagrams concerns us; what came from ports of ``ours`` does not."""
        raise NotImplementedError

    def _missed(self) -> None:
        """Note that something was not told, before, between or after what was."""

    def _unfinished(self) -> Hint | None:
        """Return what there is to say of what was not told to its end, and now may never be."""
        return None

    def _take_in(self) -> tuple[list[bytes], bool, bool]:
        """Return the next datagrams, whether some were lost, and whether these were all."""
        datagrams: list[bytes] = []
        is_lossy = False
        if self._socket is None:
            return datagrams, is_lossy, True
        while len(datagrams) < MOST_A_READ:
            try:
                datagrams.append(self._socket.recv(DATAGRAM_BYTES))
            except BlockingIOError:
                return datagrams, is_lossy, True
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return datagrams, True, True
                is_lossy = True
        return datagrams, is_lossy, False


_NOTHING = "", 0


class Journal(Protocol):
    """What keeps what others have changed. Called on the event loop, in the kernel's order."""

    def opened(self) -> None:
        """Note that what happens from now on will be told, and nothing of before."""
        ...

    def closed(self) -> None:
        """Note that nothing will be told any more."""
        ...

    def lost(self) -> None:
        """Note that something was not told."""
        ...

    def note(self, change: TableNotice) -> None:
        """Note a change by somebody else."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether nothing of what is told is noted any more."""
        ...

    def ended(self, generation: int) -> bool:
        """Note the end of a transaction, anybody's and about whatever: all that was in it has been noted.

        Return whether the one before it was told too.
        """
        ...


class TableNotices(_Listener):
    """Changes of nf_tables that others make in one family. See `HintSource`.

    ``concerns`` says what is wrong after a change ("" of one that is nothing to us): a subject and a verb, to
    which "by somebody" is added. It is not asked where ``mark`` does not stand: what all names of ours have in
    common, so that others' busy writing costs little; all changes where it does are noted in the ``journal``.
    ``lost``: the hint for changes that were not heard of.
    """

    def __init__(
        self,
        family: Family,
        mark: bytes,
        concerns: Callable[[TableNotice], str],
        writers: Writers,
        lost: Hint = LOST,
        journal: Journal | None = None,
    ) -> None:
        super().__init__(NETLINK_NETFILTER, (GROUP_NFTABLES,), writers, lost)
        self._family = family
        self._mark = mark
        self._concerns = concerns
        self._journal = journal
        self._begun = _NOTHING
        """What is wrong by a transaction whose end was not told yet, and through which port it came: whoever is to
        undo what is in the journal needs all of it."""

    def open(self) -> int:
        """See `HintSource.open`."""
        opened = super().open()
        self._begun = _NOTHING
        if self._journal is not None:
            self._journal.opened()
        return opened

    def close(self) -> None:
        """See `HintSource.close`."""
        super().close()
        if self._journal is not None:
            self._journal.closed()

    def _missed(self) -> None:
        if self._journal is not None:
            self._journal.lost()

    def _unfinished(self) -> Hint | None:
        (text, _), self._begun = self._begun, _NOTHING
        return Hint(f"{text} by somebody", is_certain=True) if text else None

    def _judge(self, datagrams: Sequence[bytes], ours: Container[int]) -> Hint | None:
        (text, culprit), program, is_over = self._begun, "", self._journal is None
        has_gap = False
        self._begun = _NOTHING
        for datagram in datagrams:
            is_ours = port_of(datagram) in ours  # as all of it is: it is of one transaction
            is_end = is_transaction(datagram) and (text or self._journal is not None)
            if not is_end and (is_ours or self._mark not in datagram):
                continue
            for each in table_notices(datagram, self._family):
                if isinstance(each, Transaction):
                    if self._journal is not None:
                        has_gap |= not self._journal.ended(each.generation)
                    if text and each.port == culprit:
                        program, is_over = f" ({each.program})", True
                elif not is_ours:
                    if self._journal is not None:
                        self._journal.note(each)
                    if not text and (text := self._concerns(each)):
                        culprit = each.port
        if text and not is_over and self._journal is not None and not self._journal.is_full:
            self._begun = text, culprit
            return self._lost if has_gap else None
        if text:
            return Hint(f"{text} by somebody{program}", is_certain=True)
        return self._lost if has_gap else None


class AddressNotices(_Listener):
    """What others do to the device of virtual addresses and to their routes. See `HintSource`.

    Addresses of the node that come and go are a reason to look: none of them may be a virtual address too.
    """

    def __init__(self, family: Family, device: str, writers: Writers) -> None:
        groups = (GROUP_LINK, GROUP_ADDRESS[family], GROUP_ROUTE[family])
        super().__init__(NETLINK_ROUTE, groups, writers)
        self._device = device

    def _judge(self, datagrams: Sequence[bytes], ours: Container[int]) -> Hint | None:
        found: Hint | None = None
        for datagram in datagrams:
            for each in route_notices(datagram, (ROUTE_PROTOCOL,)):
                if each.port in ours:
                    continue
                match each:
                    case LinkNotice(name=self._device, is_up=False):
                        return Hint(f"device {self._device} was deleted or set down by somebody", is_certain=True)
                    case RouteNotice():
                        address = address_text(each.destination) if each.destination else "of all"
                        text = f"local address {address} on device {self._device} was deleted by somebody"
                        return Hint(text, is_certain=True)
                    case AddressNotice(is_gone=True, label=self._device):
                        # With the last of them the kernel takes all IPv4 routes from the device, and says nothing.
                        return Hint(
                            f"an address of device {self._device} was deleted by somebody", is_certain=True
                        )
                    case AddressNotice():
                        found = Hint("this node's addresses have changed", is_certain=False)
        return found
