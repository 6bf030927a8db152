"""What the older interface of IPVS tells of all virtual servers: read, compared, asked for again if it moves."""

import ctypes
import errno
import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.kernel import ipvs_sockopt
from kubeproxy.kernel.fake_ipvs import FakeVirtualServers
from kubeproxy.kernel.ipvs_messages import OTHERWISE
from kubeproxy.kernel.ipvs_overview import ENTRY_BYTES, HEAD_BYTES, Outline, Overview, pack_entry
from kubeproxy.kernel.ipvs_sockopt import SocketOptions
from kubeproxy.kernel.ipvs_types import (
    FALLBACK,
    SOURCE_PORT,
    Command,
    Destination,
    Server,
    ServerKey,
    Verb,
    mark_key,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

WEB, DNS = ServerKey(Protocol.TCP, "10.96.0.1", 80), ServerKey(Protocol.UDP, "10.96.0.1", 53)
MARK = mark_key(Family.V4, 0x6B000001)
ALL = (
    Outline(Server(WEB, "mh", 0, FALLBACK | SOURCE_PORT), 3),
    Outline(Server(DNS, "rr", 10800), 65_536),
    Outline(Server(ServerKey(Protocol.SCTP, "192.0.2.255", 65535), "rr", 60, OTHERWISE), 0),
    Outline(Server(MARK, "sh"), 1),
)


def overview(*outlines: Outline) -> Overview:
    return Overview(memoryview(b"".join(map(pack_entry, outlines))))


def test_what_was_packed_is_read() -> None:
    seen = overview(*ALL)
    assert len(seen) == len(ALL)
    assert seen.outlines() == {each.server.key: each for each in ALL}
    unknown = (mark_key(Family.V4, 7), mark_key(Family.V6, MARK.mark), ServerKey(Protocol.TCP, "a60:1::", 80))
    assert seen.of([MARK, DNS, *unknown]) == {MARK: ALL[3], DNS: ALL[1]}
    assert overview().outlines() == {}
    assert len(overview()) == 0


def test_statistics_make_no_difference_and_all_else_does() -> None:
    seen = overview(*ALL)
    packed = bytearray(b"".join(map(pack_entry, ALL)))
    packed[ENTRY_BYTES - 8] = packed[48] = 1
    assert Overview(memoryview(packed)) == seen
    for place in range(48):
        packed = bytearray(b"".join(map(pack_entry, ALL)))
        packed[place] ^= 1
        assert Overview(memoryview(packed)) != seen, place


def test_a_mark_is_known_whatever_protocol_it_was_made_with() -> None:
    packed = bytearray(pack_entry(ALL[3]))
    assert packed[0] == 6
    packed[0] = 17
    assert Overview(memoryview(packed)).of([MARK]) == {MARK: ALL[3]}


def test_a_protocol_without_services_is_passed_over() -> None:
    packed = bytearray(pack_entry(ALL[0]))
    packed[0] = 50
    seen = Overview(memoryview(packed))
    assert seen.outlines() == {}
    assert seen.differing(overview()) == set()


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (ALL, set()),
        (ALL[::-1], set()),
        ((Outline(ALL[0].server, 2), Outline(ALL[1].server, 65_537), *ALL[2:]), {WEB, DNS}),
        ((Outline(Server(WEB, "rr"), 3), *ALL[1:]), {WEB}),
        (ALL[1:], {WEB}),
        ((*ALL[:3], Outline(Server(mark_key(Family.V4, 7)), 1)), {MARK, mark_key(Family.V4, 7)}),
        ((), {each.server.key for each in ALL}),
    ],
)
def test_whose_entries_differ(after: tuple[Outline, ...], expected: set[ServerKey]) -> None:
    assert overview(*after).differing(overview(*ALL)) == expected
    assert overview(*ALL).differing(overview(*after)) == expected


@given(st.data())
def test_two_differ_by_what_one_of_them_has(data: st.DataObject) -> None:
    """Whatever comes, goes, changes or moves, and wherever."""

    def drawn() -> list[Outline]:
        counts = data.draw(st.dictionaries(st.integers(1, 9), st.integers(0, 1)))
        keys = {number: ServerKey(Protocol.TCP, f"10.96.0.{number}", 80) for number in counts}
        return [Outline(Server(keys[number]), count) for number, count in counts.items()]

    one, another = drawn(), drawn()
    if data.draw(st.booleans()):
        one.sort(key=lambda each: each.server.key.address)
        another.sort(key=lambda each: each.server.key.address)
    differing = {each.server.key for each in (*one, *another) if (each in one) is not (each in another)}
    assert overview(*one).differing(overview(*another)) == differing


def test_the_model_counts_destinations_of_every_weight() -> None:
    model = FakeVirtualServers()
    web, v6 = Server(WEB, "wlc"), Server(mark_key(Family.V6, 1))
    drained = Destination("10.244.0.1", 80, 0)
    model.run([Command(Verb.ADD_SERVER, web), Command(Verb.ADD_DESTINATION, web, drained)])
    model.run([Command(Verb.ADD_SERVER, v6)])
    seen = model.overview(Family.V4)
    assert seen is not None
    assert seen.outlines() == {WEB: Outline(web, 1)}
    assert model.overview(Family.V6) is None
    model.tells_all = False
    assert model.overview(Family.V4) is None


class OldKernel:
    """Answers the two questions; ``moves`` says, question by question, which entries there are by then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: list[Outline] = list(ALL)
        self.moves: list[Callable[[list[Outline]], object]] = []
        self.refusal = self.refused = 0
        self.sizes: list[int] = []
        monkeypatch.setattr(ipvs_sockopt, "_count", lambda asked: len(self.entries))
        monkeypatch.setattr(ipvs_sockopt, "_libc", self)

    def getsockopt(
        self, descriptor: int, level: int, option: int, into: ctypes.Array[ctypes.c_char], _: object
    ) -> int:
        if self.refusal:
            self.refused += 1
            ctypes.set_errno(self.refusal)
            return -1
        if self.moves:
            self.moves.pop(0)(self.entries)
        room = (len(into) - HEAD_BYTES) // ENTRY_BYTES
        packed = b"".join(map(pack_entry, self.entries[:room]))
        ctypes.memmove(ctypes.addressof(into) + HEAD_BYTES, packed, len(packed))
        self.sizes.append(room)
        return 0


def add(entries: list[Outline]) -> None:
    entries.insert(0, Outline(Server(ServerKey(Protocol.TCP, f"10.96.1.{len(entries)}", 80)), 1))


def test_a_table_that_moves_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, options = OldKernel(monkeypatch), SocketOptions()
    for moves, questions in (([], 1), ([add], 2), ([lambda entries: entries.pop()], 2), ([list.clear], 2)):
        kernel.moves, kernel.sizes = list(moves), []
        seen = options.overview()
        assert seen is not None
        assert seen.outlines() == {each.server.key: each for each in kernel.entries}
        assert len(kernel.sizes) == questions
    kernel.moves = [add] * 5
    assert options.overview() is None
    assert len(kernel.moves) == 2


def test_a_kernel_that_gives_no_overview_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernel, options = OldKernel(monkeypatch), SocketOptions()
    kernel.refusal = errno.ENOPROTOOPT
    with caplog.at_level(logging.WARNING):
        assert options.overview() is options.overview() is None
    (told,) = caplog.messages
    assert "how many destinations" in told
    assert "has its turn" in told
    assert options.count() == len(ALL)
    kernel.refusal = 0
    assert options.overview() == overview(*ALL)


def test_a_kernel_that_lays_entries_out_otherwise_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As each such question is a line in its log."""
    kernel, options = OldKernel(monkeypatch), SocketOptions()
    kernel.refusal = errno.EINVAL
    for _ in range(3):
        assert options.overview() is None
    assert kernel.refused == 1
    assert options.count() == len(ALL)
