"""What the kernel tells of others' changes, decoded and judged; and who is not others."""

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.iptables.edits import Edits
from kubeproxy.dataplane.iptables.tables import CHAINS, JUMPS, is_ours
from kubeproxy.kernel import notices as notices_module
from kubeproxy.kernel.netlink_messages import AF, HEADER, attribute, text_attribute
from kubeproxy.kernel.notice_messages import (
    AddressNotice,
    LinkNotice,
    RouteNotice,
    TableNotice,
    Transaction,
    route_notices,
    table_notices,
)
from kubeproxy.kernel.notices import LOST, Hint, TableNotices
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.unit

PORT = 4711
JUDGE = Edits(CHAINS, is_ours, JUMPS)


def message(kind: int, body: bytes, port: int = PORT) -> bytes:
    return HEADER.pack(len(body) + HEADER.size, kind, 0, 0, port) + body + bytes(-len(body) % 4)


def change(number: int, *texts: tuple[int, str], family: Family = Family.V4, rest: bytes = b"") -> bytes:
    body = struct.pack("!BBH", AF[family], 0, 7) + b"".join(text_attribute(kind, text) for kind, text in texts)
    return message(10 << 8 | number, body + rest)


def test_a_transaction_is_told_change_by_change_and_then_by_whom() -> None:
    name = (
        struct.pack("!BBH", 0, 0, 7)
        + attribute(1, b"\0\0\0\x07")
        + attribute(2, bytes(4))
        + text_attribute(3, "nft")
    )
    datagram = change(8, (1, "nat"), (2, "KUBE-SVC-X")) + change(5, (1, "nat"), (3, "KUBE-SVC-X"))
    datagram += change(2, (1, "nat")) + change(14, (1, "t"), (2, "set")) + message(10 << 8 | 15, name)
    found = [each[:5] if isinstance(each, TableNotice) else each for each in table_notices(datagram, Family.V4)]
    assert found == [
        (PORT, "rule", True, "nat", "KUBE-SVC-X"),
        (PORT, "chain", True, "nat", "KUBE-SVC-X"),
        (PORT, "table", True, "nat", ""),
        (PORT, "element", True, "t", "set"),
        Transaction(PORT, "nft", 7),
    ]


def test_other_families_and_other_objects_are_passed_over() -> None:
    datagram = change(8, (1, "nat"), (2, "X"), family=Family.V6) + change(20, (1, "nat"), (2, "counter"))
    assert list(table_notices(datagram, Family.V4)) == []
    assert [each.port for each in table_notices(datagram, Family.V6)] == [PORT]


@given(st.binary(max_size=200), st.sampled_from(Family))
def test_nonsense_is_passed_over(data: bytes, family: Family) -> None:
    for number in (0x0A08, 0x0A0F, 16, 20, 25):
        for datagram in (data, message(number, data), message(number, data)[: len(data)]):
            list(table_notices(datagram, family))
            list(route_notices(datagram, (242,)))


@pytest.mark.parametrize(
    ("number", "texts", "rest", "expected"),
    [
        (2, [(1, "nat")], b"", "table nat was deleted"),
        (2, [(1, "raw")], b"", ""),
        (0, [(1, "nat")], b"", ""),
        (5, [(1, "nat"), (3, "KUBE-SERVICES")], b"", "chain KUBE-SERVICES of table nat was deleted"),
        (3, [(1, "nat"), (3, "KUBE-SERVICES")], b"", ""),
        (5, [(1, "nat"), (3, "DOCKER")], b"", ""),
        (6, [(1, "nat"), (2, "KUBE-SVC-ABC")], b"", "chain KUBE-SVC-ABC of table nat was changed"),
        (8, [(1, "filter"), (2, "KUBE-FORWARD")], b"", "chain KUBE-FORWARD of table filter was changed"),
        (8, [(1, "filter"), (2, "KUBE-FIREWALL")], b"", ""),
        (8, [(1, "nat"), (2, "PREROUTING")], b"", ""),
        (
            8,
            [(1, "nat"), (2, "PREROUTING")],
            text_attribute(4, "KUBE-SERVICES"),
            "a rule of chain PREROUTING of table nat that leads to Services was deleted",
        ),
        (6, [(1, "nat"), (2, "PREROUTING")], text_attribute(4, "KUBE-SERVICES"), ""),
        (8, [(1, "nat"), (2, "PREROUTING")], text_attribute(4, "KUBE-FORWARD"), ""),  # which is filter's
        (12, [(1, "nat"), (2, "KUBE-SERVICES")], b"", ""),
    ],
)
def test_what_of_ours_a_change_has_hit(
    number: int, texts: list[tuple[int, str]], rest: bytes, expected: str
) -> None:
    (notice,) = table_notices(change(number, *texts, rest=rest), Family.V4)
    assert isinstance(notice, TableNotice)
    assert JUDGE(notice) == expected


def test_links_addresses_and_routes_are_told() -> None:
    name = text_attribute(3, "kube-ipvs0")
    link = struct.Struct("=BBHiII")
    route = struct.Struct("=BBBBBBBBI")
    datagram = message(17, link.pack(0, 0, 0, 5, 0, 0) + name)
    datagram += message(16, link.pack(0, 0, 0, 5, 1, 0) + name) + message(16, link.pack(0, 0, 0, 5, 0, 0) + name)
    datagram += message(20, bytes(8)) + message(21, bytes(8) + text_attribute(3, "eth0"))
    datagram += message(24, route.pack(2, 32, 0, 0, 255, 242, 0, 2, 0))
    for protocol in (242, 2):
        datagram += message(25, route.pack(2, 32, 0, 0, 255, protocol, 0, 2, 0) + attribute(1, b"\x0a\x60\0\x01"))
    assert list(route_notices(datagram, (242,))) == [
        LinkNotice(PORT, "kube-ipvs0", is_up=False),
        LinkNotice(PORT, "kube-ipvs0", is_up=True),
        LinkNotice(PORT, "kube-ipvs0", is_up=False),
        AddressNotice(PORT, is_gone=False, label=""),
        AddressNotice(PORT, is_gone=True, label="eth0"),
        RouteNotice(PORT, 242, b"\x0a\x60\0\x01"),
    ]


def test_a_port_is_ours_until_all_that_came_from_it_was_read() -> None:
    writers = Writers()
    writers.begin(1)
    writers.begin(2)
    writers.end(1)
    ended = writers.ended()
    writers.end(2)  # while what was told is read
    assert writers.ours() == {1, 2}
    writers.forget(ended)
    assert writers.ours() == {2}
    writers.begin(2)
    writers.forget(writers.ended())
    assert writers.ours() == {2}


class _Joining:
    """A socket at which a port ends while its owner joins a group."""

    def __init__(self, writers: Writers) -> None:
        self._writers = writers

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if level == 270:
            self._writers.end(3)

    def bind(self, address: tuple[int, int]) -> None:
        pass

    def fileno(self) -> int:
        return 7


def test_who_ended_before_we_listen_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    writers = Writers()
    for port in (1, 2, 3):
        writers.begin(port)
    writers.end(1)
    notices = TableNotices(Family.V4, b"KUBE", lambda change: "a rule was changed", writers)
    monkeypatch.setattr(socket, "socket", lambda *_: _Joining(writers))
    notices.open()
    assert (writers.ours(), writers.ended()) == ({2, 3}, {3})


class _Told:
    """A socket on which a port tells of a change the moment after it began, which is while it is read."""

    def __init__(self, writers: Writers) -> None:
        self._writers = writers
        self._datagrams = [change(8, (1, "nat"), (2, "KUBE-SVC-X"))]

    def recv(self, size: int) -> bytes:
        if not self._datagrams:
            raise BlockingIOError
        self._writers.begin(PORT)
        return self._datagrams.pop()


@pytest.mark.parametrize("is_ours_too", [True, False])
def test_a_port_that_begins_while_notices_are_read_is_ours(is_ours_too: bool) -> None:
    writers = Writers()
    notices = TableNotices(Family.V4, b"KUBE", lambda change: "a rule was changed", writers)
    notices._socket = _Told(writers if is_ours_too else Writers())  # type: ignore[assignment]
    hint = notices.read()
    assert (hint is None) is is_ours_too


class _Queue:
    """A socket on which datagrams lie, or errors."""

    def __init__(self) -> None:
        self.told: list[bytes | OSError] = []

    def close(self) -> None:
        pass

    def recv(self, size: int) -> bytes:
        found = self.told.pop(0) if self.told else BlockingIOError()
        if isinstance(found, OSError):
            raise found
        return found


GAP = 99


class _Notes:
    """A journal that keeps what it hears."""

    is_full = False

    def __init__(self) -> None:
        self.heard: list[object] = []

    def opened(self) -> None:
        self.heard.append("opened")

    def lost(self) -> None:
        self.heard.append("lost")

    def note(self, change: TableNotice) -> None:
        self.heard.append(change.name)

    def closed(self) -> None:
        self.heard.append("closed")

    def ended(self, generation: int) -> bool:
        self.heard.append(generation)
        return generation != GAP


def end(generation: int, port: int = PORT) -> bytes:
    body = struct.pack("!BBH", 0, 0, 7) + attribute(1, generation.to_bytes(4, "big")) + text_attribute(3, "nft")
    return message(10 << 8 | 15, body, port)


def journaling() -> tuple[TableNotices, _Queue, _Notes]:
    queue, notes, writers = _Queue(), _Notes(), Writers()
    writers.begin(1)
    notices = TableNotices(Family.V4, b"KUBE", lambda change: f"{change.name} is", writers, journal=notes)
    notices._socket = queue  # type: ignore[assignment]
    return notices, queue, notes


def test_all_that_others_change_is_noted_with_the_ends_of_all_transactions() -> None:
    notices, queue, notes = journaling()
    queue.told = [change(8, (1, "KUBE"), (2, "x")) + change(6, (1, "KUBE"), (2, "y")), end(5)]
    queue.told += [message(10 << 8 | 8, change(8, (1, "KUBE"), (2, "ours"))[16:], 1), end(6, 1)]
    queue.told += [change(8, (1, "other"), (2, "z")), end(7, 3)]
    assert notices.read() == Hint("x is by somebody (nft)", is_certain=True)
    assert notes.heard == ["x", "y", 5, 6, 7]


def test_a_transaction_is_told_of_when_all_of_it_was() -> None:
    notices, queue, notes = journaling()
    queue.told = [change(8, (1, "KUBE"), (2, "x"))]
    assert notices.read() is None
    queue.told = [end(4, 1), change(8, (1, "KUBE"), (2, "y"))]
    assert notices.read() is None
    queue.told = [end(5)]
    assert notices.read() == Hint("x is by somebody (nft)", is_certain=True)
    assert notices.read() is None
    assert notes.heard == ["x", 4, "y", 5]


def test_what_is_too_much_to_note_is_told_of_at_once() -> None:
    notices, queue, notes = journaling()
    notes.is_full = True
    queue.told = [change(8, (1, "KUBE"), (2, "x"))]
    assert notices.read() == Hint("x is by somebody", is_certain=True)


def test_what_has_begun_is_certain_though_its_end_was_lost() -> None:
    notices, queue, notes = journaling()
    queue.told = [change(8, (1, "KUBE"), (2, "x"))]
    assert notices.read() is None
    queue.told = [OSError(errno.ENOBUFS, "")]
    assert notices.read() == Hint("x is by somebody", is_certain=True)
    assert notes.heard == ["x", "lost"]


def test_a_loss_is_not_over_before_all_that_lay_there_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices_module, "MOST_A_READ", 2)
    notices, queue, notes = journaling()
    queue.told = [OSError(errno.ENOBUFS, ""), *(end(generation) for generation in range(1, 6))]
    assert notices.read() == LOST
    assert notices.read() is None  # a look is on its way
    assert notices.read() == LOST
    assert notes.heard == [1, 2, "lost", 3, 4, "lost", 5, "lost"]
    queue.told = [end(8)]
    assert notices.read() is None
    assert notes.heard[-1] == 8


def test_a_transaction_that_was_not_told_is_a_reason_to_look() -> None:
    notices, queue, _ = journaling()
    queue.told = [end(GAP)]
    assert notices.read() == LOST


def test_who_stops_listening_says_so() -> None:
    notices, _, notes = journaling()
    notices.close()
    assert notes.heard == ["closed"]


@given(st.lists(st.sampled_from([("a", "x"), ("a", "xy"), ("ab", "x"), ("", "")]), max_size=6), st.data())
def test_a_change_is_told_the_same_alone_as_after_others(
    names: list[tuple[str, str]], data: st.DataObject
) -> None:
    kinds = [data.draw(st.sampled_from([0, 2, 3, 5, 6, 8, 9, 12, 14])) for _ in names]
    single = [
        change(kind, (1, table), (3 if kind in (3, 5) else 2, name), rest=text_attribute(7, table))
        for kind, (table, name) in zip(kinds, names, strict=True)
    ]
    alone = [each for datagram in single for each in table_notices(datagram, Family.V4)]
    assert list(table_notices(b"".join(single), Family.V4)) == alone
