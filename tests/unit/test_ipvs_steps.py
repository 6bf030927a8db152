"""From what stands of a virtual server to what is wanted, what drains meanwhile, and whose fault a refusal is."""

import errno
import os

import pytest

from kubeproxy.dataplane.ipvs.draining import Draining
from kubeproxy.dataplane.ipvs.marks import Marks
from kubeproxy.dataplane.ipvs.part import Part, Virtual
from kubeproxy.dataplane.ipvs.refusals import judge
from kubeproxy.dataplane.ipvs.steps import Standing, drains, steps
from kubeproxy.dataplane.ipvs.substitutes import served, substitute
from kubeproxy.kernel.ipvs_types import (
    FALLBACK,
    SOURCE_PORT,
    Command,
    Destination,
    Found,
    Server,
    ServerKey,
    Verb,
    mark_key,
    singly,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

KEY = ServerKey(Protocol.TCP, "10.96.0.1", 80)
SERVER = Server(KEY)
ONE, TWO = ("10.1.0.1", 8080), ("10.1.0.2", 8080)


def wanted(*spots: tuple[str, int], server: Server = SERVER) -> Virtual:
    return Virtual(server, tuple(Destination(*spot) for spot in spots))


def told(commands: object) -> list[str]:
    """Write commands in few words."""
    words = {
        Verb.ADD_SERVER: "add",
        Verb.SET_SERVER: "set",
        Verb.DELETE_SERVER: "delete",
        Verb.ADD_DESTINATION: "add",
        Verb.SET_DESTINATION: "set",
        Verb.DELETE_DESTINATION: "delete",
    }
    assert isinstance(commands, list | tuple)
    return [
        f"{words[each.verb]} {each.destination.address} {each.destination.weight}"
        if each.destination
        else f"{words[each.verb]} server"
        for each in singly(commands)
    ]


@pytest.mark.parametrize(
    ("standing", "virtual", "drain", "commands", "draining"),
    [
        (None, wanted(), True, ["add server"], set()),
        (None, wanted(ONE), True, ["add server", "add 10.1.0.1 1"], set()),
        ({ONE: 1}, wanted(ONE), True, [], set()),
        ({ONE: 1}, wanted(TWO), True, ["add 10.1.0.2 1", "set 10.1.0.1 0"], {ONE}),
        ({ONE: 1}, wanted(TWO), False, ["add 10.1.0.2 1", "delete 10.1.0.1 1"], set()),
        ({ONE: 0, TWO: 1}, wanted(TWO), True, [], {ONE}),
        ({ONE: 0, TWO: 1}, wanted(TWO), False, ["delete 10.1.0.1 1"], set()),
        ({ONE: 0}, wanted(ONE), True, ["set 10.1.0.1 1"], set()),
        ({ONE: 7}, wanted(ONE), True, ["set 10.1.0.1 1"], set()),
        ({ONE: 1}, wanted(ONE, server=Server(KEY, "lc")), True, ["set server"], set()),
    ],
)
def test_destinations_are_added_before_others_leave(
    standing: dict[tuple[str, int], int] | None,
    virtual: Virtual,
    drain: bool,
    commands: list[str],
    draining: set[tuple[str, int]],
) -> None:
    found = steps(Standing(SERVER, standing) if standing is not None else None, virtual, drain=drain)
    assert told(found.commands) == commands
    assert (set(found.draining), found.is_deleted) == (draining, False)


def test_a_server_that_nobody_wants_stays_while_connections_are_established() -> None:
    used = steps(Standing(SERVER, {ONE: 1, TWO: 0}, is_used=True), None, drain=True)
    assert (told(used.commands), set(used.draining), used.is_deleted) == (["set 10.1.0.1 0"], {ONE, TWO}, False)
    for idle in (Standing(SERVER, {ONE: 1}, is_used=False), Standing(SERVER, {})):
        assert steps(idle, None, drain=True).is_deleted
    assert steps(Standing(SERVER, {ONE: 1}), None, drain=False).is_deleted
    assert steps(None, None, drain=True).commands == ()


def test_what_has_no_connections_or_no_way_to_leave_out_a_destination_does_not_drain() -> None:
    assert drains(Protocol.TCP, SERVER)
    assert drains(Protocol.SCTP, SERVER)
    assert drains(None, Server(mark_key(Family.V4, 7)))
    assert not drains(Protocol.UDP, SERVER)
    assert not drains(Protocol.TCP, Server(KEY, "dh"))


def test_a_destination_is_deleted_when_its_last_connection_is_forgotten() -> None:
    draining = Draining()
    draining.note(KEY, [ONE, TWO], None)
    assert draining.due(10) == [KEY]
    found = [Found(Destination(*ONE, weight=0), 0, 1), Found(Destination(*TWO, weight=0))]
    commands, done = draining.looked(KEY, found)
    assert (told(commands), done) == (["delete 10.1.0.2 1"], False)
    assert draining.spots[KEY] == {ONE}
    assert draining.looked(KEY, []) == ([], False)  # somebody else was first
    assert draining.due(10) == []


def test_a_server_goes_when_no_connection_is_established_and_holds_its_address_until_then() -> None:
    draining = Draining()
    draining.note(KEY, [ONE], SERVER)
    assert draining.holds("10.96.0.1")
    assert draining.looked(KEY, [Found(Destination(*ONE, weight=0), 1, 0)]) == ([], False)
    assert draining.looked(KEY, [Found(Destination(*ONE, weight=0), 0, 5)]) == ([], True)
    assert not draining.holds("10.96.0.1")
    assert not draining.unwanted


def test_a_returning_service_takes_its_server_back() -> None:
    draining = Draining()
    draining.note(KEY, [ONE, TWO], SERVER)
    draining.note(KEY, [TWO], None)
    assert not draining.holds("10.96.0.1")
    assert draining.spots == {KEY: {TWO}}


def test_everyone_gets_a_turn() -> None:
    draining = Draining()
    keys = [ServerKey(Protocol.TCP, "10.96.0.1", port) for port in range(1, 6)]
    for key in keys:
        draining.note(key, [ONE], None)
    assert [*draining.due(2), *draining.due(2), *draining.due(1)] == keys


ADD = Command(Verb.ADD_SERVER, SERVER)
ADD_ONE = Command(Verb.ADD_DESTINATION, SERVER, Destination(*ONE))
LEAVE = Command(Verb.SET_DESTINATION, SERVER, Destination(*ONE, weight=0))


@pytest.mark.parametrize(
    ("commands", "codes", "text"),
    [
        ([ADD, ADD_ONE], [0, 0], ""),
        ([ADD, ADD_ONE], [errno.ENOENT, errno.ESRCH], "no scheduler rr: modprobe ip_vs_rr"),
        ([ADD], [errno.EEXIST], "somebody else's"),
        ([ADD_ONE], [errno.ESRCH], "add-destination tcp 10.96.0.1:80"),
        ([ADD_ONE], [errno.EEXIST], "add-destination tcp 10.96.0.1:80: File exists"),
        ([ADD, ADD_ONE], [errno.ENOBUFS, errno.ESRCH], "No buffer space"),
        ([ADD], [errno.EPROTONOSUPPORT], "Protocol not supported"),
        ([LEAVE], [errno.ENOENT], ""),
        ([Command(Verb.DELETE_SERVER, SERVER)], [errno.ESRCH], ""),
        ([Command(Verb.DELETE_SERVER, SERVER)], [errno.EBUSY], "busy"),
    ],
)
def test_a_refusal_is_somebodys_fault(commands: list[Command], codes: list[int], text: str) -> None:
    judgement = judge(commands, codes, os.strerror)
    assert bool(judgement) == bool(text)
    assert text in judgement.text


def test_what_a_server_that_was_refused_lacks_is_no_edit_of_others() -> None:
    assert judge([ADD, ADD_ONE], [errno.EPROTONOSUPPORT, errno.ESRCH], os.strerror).edited == ""


@pytest.mark.parametrize(
    ("scheduler", "lacking", "instead"),
    [
        ("lc", (), "lc"),
        ("lc", ("lc",), "rr"),
        ("mh", ("mh",), "sh"),
        ("mh", ("mh", "sh"), "rr"),
        ("rr", ("rr",), "rr"),
    ],
)
def test_the_next_best_scheduler_serves(scheduler: str, lacking: tuple[str, ...], instead: str) -> None:
    server = substitute(Server(KEY, scheduler, flags=FALLBACK | SOURCE_PORT), lacking)
    assert server.scheduler == instead
    assert bool(server.flags) == (instead == scheduler or instead == "sh")


def test_a_substitute_is_told() -> None:
    part = Part(virtuals=(wanted(ONE, server=Server(KEY, "lc")),))
    assert served(part, {"nq"}) == (part, "")
    changed, note = served(part, {"lc"})
    assert changed.virtuals == (wanted(ONE, server=Server(KEY, "rr")),)
    assert "ip_vs_lc" in note


def test_marks_are_kept_over_a_restart_and_given_to_one_port_only() -> None:
    names = [ServicePortName("default", str(index), "", Protocol.TCP) for index in range(4)]
    first = Marks(14, lambda mark: False)
    marks = [first.of(name) for name in names[:3]]
    assert len(set(marks)) == 3
    assert not any(mark & 1 << 14 for mark in marks)
    again = Marks(14, lambda mark: mark in marks)
    assert again.of(names[1], [marks[1]]) == marks[1]
    assert again.of(names[1]) == marks[1]
    assert again.of(names[3], [marks[1]]) not in marks  # somebody has it
    assert again.of(names[2], [marks[2] | 1 << 14, 5, marks[2]]) == marks[2]
    again.release(names[1])
    assert again.of(names[0], [marks[1]]) == marks[1]
