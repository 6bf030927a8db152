"""The bytes of IPVS messages, against what ipvsadm sends and hears, and against pyroute2's encoder.

The capture was made by tests/uml/capture_ipvsadm.py, which names every command in it.
"""

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyroute2.netlink.generic.ipvs import ipvsmsg

from kubeproxy.kernel.ipvs_messages import (
    NOT_OURS,
    OTHERWISE,
    decode_counted,
    decode_destinations,
    decode_servers,
    decode_timeouts,
    encode_command,
    encode_flush,
    encode_get_destinations,
    encode_get_servers,
    encode_get_timeouts,
    encode_set_timeouts,
    pack_commands,
)
from kubeproxy.kernel.ipvs_types import (
    FALLBACK,
    ONE_PACKET,
    SOURCE_PORT,
    Command,
    Destination,
    Server,
    ServerKey,
    Statistics,
    Timeouts,
    Verb,
    mark_key,
    singly,
)
from kubeproxy.kernel.netlink_messages import NLM_F_REQUEST, attribute, attributes, messages
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

Rows = dict[str, Any]
Tree = dict[int, dict[int, bytes]]

CAPTURE: list[Rows] = json.loads((Path(__file__).parents[1] / "captures/ipvsadm.json").read_text())
SERVER, DESTINATION = 1, 2
METHOD, FAMILY, WEIGHT, TUNNEL = 3, 11, 4, {13, 14, 15}
SETTINGS = {6, 7, 8, 9}
"""Of a server, what is not its key."""

WEB = ServerKey(Protocol.TCP, "10.96.0.1", 80)
NAMES = ServerKey(Protocol.UDP, "10.96.0.1", 53)
DIAMETER = ServerKey(Protocol.SCTP, "10.96.0.1", 3868)
STICKY = ServerKey(Protocol.TCP, "10.96.0.2", 443)
WEB6, NAMES6, STICKY6 = (
    ServerKey(Protocol.TCP, "fd00:10::1", 80),
    ServerKey(Protocol.UDP, "fd00:10::1", 53),
    ServerKey(Protocol.TCP, "fd00:10::2", 443),
)
MARK, MARK6 = mark_key(Family.V4, 4097), mark_key(Family.V6, 4098)
LOG = ServerKey(Protocol.UDP, "10.96.0.3", 514)
POD, POD6 = Destination("10.244.1.2", 8080), Destination("fd00:244::2", 8080)
MANY = ServerKey(Protocol.TCP, "10.96.0.5", 80)

SERVERS = {
    "ipvsadm -A -t 10.96.0.1:80 -s rr": Server(WEB),
    "ipvsadm -A -u 10.96.0.1:53 -s lc": Server(NAMES, "lc"),
    "ipvsadm -A --sctp-service 10.96.0.1:3868 -s wrr": Server(DIAMETER, "wrr"),
    "ipvsadm -A -t [fd00:10::1]:80 -s rr": Server(WEB6),
    "ipvsadm -A -u [fd00:10::1]:53 -s sh -b sh-port": Server(NAMES6, "sh", 0, SOURCE_PORT),
    "ipvsadm -A -t 10.96.0.2:443 -s rr -p 10800": Server(STICKY, affinity_seconds=10800),
    "ipvsadm -A -t [fd00:10::2]:443 -s rr -p 10800": Server(STICKY6, affinity_seconds=10800),
    "ipvsadm -A -f 4097 -s mh -b mh-port": Server(MARK, "mh", 0, SOURCE_PORT),
    "ipvsadm -A -f 4098 -6 -s mh -b mh-port,mh-fallback": Server(MARK6, "mh", 0, SOURCE_PORT | FALLBACK),
    "ipvsadm -A -u 10.96.0.3:514 -s rr -o": Server(LOG, "rr", 0, ONE_PACKET),
    "ipvsadm -E -t 10.96.0.2:443 -s wlc -p 60": Server(STICKY, "wlc", 60),
    "ipvsadm -E -t 10.96.0.2:443 -s wlc": Server(STICKY, "wlc"),
    "ipvsadm -D -t 10.96.0.1:80": Server(WEB),
    "ipvsadm -D -f 4098 -6": Server(MARK6),
}
DESTINATIONS = {
    "ipvsadm -a -t 10.96.0.1:80 -r 10.244.1.2:8080 -m -w 1": (WEB, POD),
    "ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.3:8080 -m -w 0": (WEB, Destination("10.244.1.3", 8080, 0)),
    "ipvsadm -a -u 10.96.0.1:53 -r 10.244.1.2:53 -m -w 1": (NAMES, Destination("10.244.1.2", 53)),
    "ipvsadm -a --sctp-service 10.96.0.1:3868 -r 10.244.1.2:3868 -m -w 65535": (
        DIAMETER,
        Destination("10.244.1.2", 3868, 65535),
    ),
    "ipvsadm -a -t [fd00:10::1]:80 -r [fd00:244::2]:8080 -m -w 1": (WEB6, POD6),
    "ipvsadm -e -t [fd00:10::1]:80 -r [fd00:244::2]:8080 -m -w 7": (WEB6, Destination("fd00:244::2", 8080, 7)),
    "ipvsadm -a -f 4097 -r 10.244.1.2:8080 -m -w 1": (MARK, POD),
    "ipvsadm -a -f 4098 -6 -r [fd00:244::2]:8080 -m -w 1": (MARK6, POD6),
    "ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.3:8080": (WEB, Destination("10.244.1.3", 8080)),
    "ipvsadm -d -t [fd00:10::1]:80 -r [fd00:244::2]:8080": (WEB6, POD6),
}
VERBS = {
    "-A": Verb.ADD_SERVER,
    "-E": Verb.SET_SERVER,
    "-D": Verb.DELETE_SERVER,
    "-a": Verb.ADD_DESTINATION,
    "-e": Verb.SET_DESTINATION,
    "-d": Verb.DELETE_DESTINATION,
}


def verb(command: str) -> Verb:
    return VERBS[command.split()[1]]


def row(command: str) -> Rows:
    return next(row for row in CAPTURE if row["command"] == command)


def sent(command: str) -> bytes:
    (one,) = row(command)["sent"]
    return bytes.fromhex(one)


def tree(body: bytes) -> Tree:
    return {kind: dict(attributes(value)) for kind, value in attributes(body[4:])}


@pytest.mark.parametrize("command", SERVERS)
def test_a_server_is_what_ipvsadm_sends(command: str) -> None:
    ours = encode_command(Command(verb(command), SERVERS[command]))
    theirs = sent(command)
    if verb(command) is not Verb.DELETE_SERVER:
        assert ours == theirs
        return
    assert ours[:4] == theirs[:4]
    assert tree(ours)[SERVER].items() == {i for i in tree(theirs)[SERVER].items() if i[0] not in SETTINGS}


@pytest.mark.parametrize("command", DESTINATIONS)
def test_a_destination_is_what_ipvsadm_sends(command: str) -> None:
    key, destination = DESTINATIONS[command]
    ours = encode_command(Command(verb(command), Server(key), destination))
    theirs = tree(sent(command))
    assert ours[:4] == sent(command)[:4]
    # Its extras: settings that it does not know for the server, a tunnel's, and for a deletion a method.
    assert tree(ours)[SERVER].items() == {i for i in theirs[SERVER].items() if i[0] not in SETTINGS}
    ignored = TUNNEL | ({METHOD} if verb(command) is Verb.DELETE_DESTINATION else set())
    assert without(tree(ours)[DESTINATION], ignored) == without(theirs[DESTINATION], ignored)
    assert tree(ours)[DESTINATION][METHOD] == bytes(4), "masquerading"


def without(fields: dict[int, bytes], kinds: set[int]) -> dict[int, bytes]:
    return {kind: value for kind, value in fields.items() if kind not in kinds}


def test_an_address_of_a_destination_says_its_own_family() -> None:
    body = encode_command(Command(Verb.ADD_DESTINATION, Server(MARK6), POD6))
    assert tree(body)[DESTINATION][FAMILY] == struct.pack("=H", 10)
    assert tree(body)[DESTINATION][WEIGHT] == struct.pack("=I", 1)


@pytest.mark.parametrize("key", [WEB, WEB6, MARK6])
def test_a_new_server_and_its_destinations_are_a_message_each(key: ServerKey) -> None:
    pods = (POD6, Destination("fd00::7", 9)) if key.family is Family.V6 else (POD,)
    whole = Command(Verb.ADD_SERVER, Server(key), places=pods)
    delete = Command(Verb.DELETE_SERVER, Server(key))
    alone = [
        Command(Verb.ADD_SERVER, Server(key)),
        *(Command(Verb.ADD_DESTINATION, Server(key), pod) for pod in pods),
    ]
    assert list(singly([whole, delete])) == [*alone, delete]
    packed = b"".join(data for data, _ in pack_commands([whole, delete], 33, 7))
    expected = [(33, NLM_F_REQUEST, 7 + i, encode_command(each)) for i, each in enumerate((*alone, delete))]
    assert list(messages(packed)) == expected


def test_timeouts_and_flush_are_what_ipvsadm_sends() -> None:
    assert encode_set_timeouts(Timeouts(900, 120, 300)) == sent("ipvsadm --set 900 120 300")
    assert encode_set_timeouts(Timeouts(tcp_fin=60)) == sent("ipvsadm --set 0 60 0")
    assert encode_get_timeouts() == sent("ipvsadm -L --timeout")
    assert encode_flush() == sent("ipvsadm -C")


def test_what_the_kernel_answers_about_timeouts() -> None:
    (answer,) = row("ipvsadm -L --timeout")["answers"]
    assert decode_timeouts(bytes.fromhex(answer)) == Timeouts(900, 60, 300)


def test_questions_are_what_ipvsadm_sends() -> None:
    listing, *others = map(bytes.fromhex, row("ipvsadm -L -n")["sent"])
    assert encode_get_servers() == listing
    ours = [encode_get_destinations(key) for key in (WEB, WEB6, MARK, MARK6)]
    assert {str((body[:4], tree(body))) for body in ours} <= {str((body[:4], tree(body))) for body in others}


def answers(command: str, kind: int, which: int = 0) -> list[bytes]:
    rows = [row for row in CAPTURE if row["command"] == command]
    bodies = map(bytes.fromhex, rows[which]["answers"])
    return [body for body in bodies if next(attributes(body[4:]))[0] == kind]


def test_servers_are_read_from_what_the_kernel_answers() -> None:
    bodies = answers("ipvsadm -L -n", SERVER)
    shown = {command: server for command, server in SERVERS.items() if verb(command) is Verb.ADD_SERVER}
    expected = {server.key: server for server in shown.values()}
    expected[STICKY] = Server(STICKY, "rr", 300)
    expected[MANY] = Server(MANY, "rr", 60, OTHERWISE)
    for family in Family:
        found = {server.key: server for server in decode_servers(bodies, family)}
        assert found == {key: server for key, server in expected.items() if key.family is family}


def test_what_is_otherwise_about_a_server_is_not_sent_back() -> None:
    odd = Server(MANY, "rr", 60, OTHERWISE)
    plain = msgspec.structs.replace(odd, flags=0)
    assert encode_command(Command(Verb.SET_SERVER, odd)) == encode_command(Command(Verb.SET_SERVER, plain))


def test_destinations_are_read_from_what_the_kernel_answers() -> None:
    found = [each.destination for each in decode_destinations(answers("ipvsadm -L -n", DESTINATION))]
    assert sorted(map(str, found)) == sorted(
        map(
            str,
            [
                POD,
                Destination("10.244.1.3", 8080, 0),
                Destination("10.244.1.2", 53),
                Destination("10.244.1.2", 3868, 65535),
                Destination("fd00:244::2", 8080, 7),
                POD,
                POD6,
                Destination("10.244.1.2", 80, NOT_OURS),
                Destination("10.244.1.3", 80, NOT_OURS),
            ],
        )
    )


def test_connections_and_counters_are_read() -> None:
    (server,) = decode_counted(answers("ipvsadm -L -n", SERVER, 1), Family.V4)
    (found,) = decode_destinations(answers("ipvsadm -L -n", DESTINATION, 1))
    shown = [row["text"] for row in CAPTURE if row["command"] == "ipvsadm -L -n"][1].split()
    assert shown[-2:] == [str(found.active), str(found.inactive)]
    assert found.active + found.inactive == 4
    assert found.persistent == 1
    assert found.statistics == server.statistics
    assert found.statistics.connections == 4
    assert found.statistics.packets_in >= 9
    assert found.statistics.bytes_in > 1000 > found.statistics.bytes_out > 0


def test_counters_are_read_with_and_without_padding_and_from_an_old_kernel() -> None:
    expected = Statistics(*range(101, 111))
    plain = b"".join(attribute(kind, struct.pack("=Q", 100 + kind)) for kind in range(1, 11))
    padded = b"".join(attribute(11, b"") + attribute(k, struct.pack("=Q", 100 + k)) for k in range(1, 11))
    old = b"".join(attribute(k, struct.pack("=Q" if k in (4, 5) else "=I", 100 + k)) for k in range(1, 11))
    (body,) = answers("ipvsadm -L -n", DESTINATION, 1)
    kept = b"".join(attribute(k, v) for k, v in attributes(body[8:]) if k not in (10, 12))
    for statistics in (attribute(12, plain), attribute(12, padded), attribute(10, old)):
        (found,) = decode_destinations([body[:8] + kept + statistics])
        assert found.statistics == expected


def pyroute2_body(command: int, server: dict[str, Any], destination: dict[str, Any] | None = None) -> bytes:
    message = ipvsmsg()
    message["cmd"], message["version"] = command, 1
    nested = {"attrs": [(f"IPVS_SVC_ATTR_{key}", value) for key, value in server.items()]}
    message["attrs"] = [("IPVS_CMD_ATTR_SERVICE", nested)]
    if destination is not None:
        nested = {"attrs": [(f"IPVS_DEST_ATTR_{key}", value) for key, value in destination.items()]}
        message["attrs"].append(("IPVS_CMD_ATTR_DEST", nested))
    message.encode()
    return bytes(message.data[16:])


@pytest.mark.parametrize("v6", [False, True])
def test_pyroute2_packs_the_same(v6: bool) -> None:
    address, pod = ("fd00:10::1", "fd00:244::2") if v6 else ("10.96.0.1", "10.244.1.2")
    family, mask = (10, "128.0.0.0") if v6 else (2, "255.255.255.255")
    key = {"AF": family, "PROTOCOL": 17, "ADDR": address, "PORT": 53}
    rest = {"SCHED_NAME": "mh", "FLAGS": {"flags": 0x11, "mask": 0xFFFFFFFF}, "TIMEOUT": 77, "NETMASK": mask}
    server = Server(ServerKey(Protocol.UDP, address, 53), "mh", 77, SOURCE_PORT)
    where = {"ADDR_FAMILY": family, "ADDR": pod, "PORT": 5353}
    limits = {"FWD_METHOD": 0, "WEIGHT": 3, "U_THRESH": 0, "L_THRESH": 0}
    theirs = pyroute2_body(1, key | rest)
    ours = encode_command(Command(Verb.ADD_SERVER, server))
    assert wide(tree(ours)) == wide(tree(theirs))
    theirs = pyroute2_body(5, key, where | limits)
    ours = encode_command(Command(Verb.ADD_DESTINATION, server, Destination(pod, 5353, 3)))
    assert wide(tree(ours)) == wide(tree(theirs))


def wide(found: Tree) -> Tree:
    """Without the zeros after an IPv4 address, which pyroute2 leaves out."""
    address = {SERVER: 3, DESTINATION: 1}
    return {
        part: {kind: value.ljust(16, b"\0") if kind == address[part] else value for kind, value in fields.items()}
        for part, fields in found.items()
    }
