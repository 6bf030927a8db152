"""ipsets of every type on the real kernel: filled, read back (by `ipset` too), and what packets make of them."""

import itertools
import socket
import struct
from collections.abc import Iterator

import pytest

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset import EntriesRefused, Ipset
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from tests.netns.lone_namespace import LoneNamespace, lone_namespace

pytestmark = pytest.mark.netns

ADDRESS = {Family.V4: "10.0.0.1", Family.V6: "fd00::1"}
NETWORK = {Family.V4: "192.0.2.0/24", Family.V6: "2001:db8::/32"}
LOCALHOST = {Family.V4: "127.0.0.1", Family.V6: "::1"}
MARK = 0x6B000001
MASK = 0xFFFFBFFF

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP


@pytest.fixture
def alone() -> Iterator[LoneNamespace]:
    with lone_namespace() as namespace:
        namespace.ip("link set lo up")
        yield namespace


def entries(family: Family, kind: SetType) -> dict[Member, str]:
    """Return some entries, and how `ipset save` writes them."""
    ip, network = ADDRESS[family], NETWORK[family]
    some: dict[SetType, dict[Member, str]] = {
        SetType.ADDRESSES: {ip: ip},
        SetType.PORT_NUMBERS: {0: "0", 65535: "65535"},
        SetType.PORTS: {(ip, SCTP, 80): f"{ip},sctp:80", (ip, UDP, 53): f"{ip},udp:53"},
        SetType.ENDPOINTS: {(ip, TCP, 80): f"{ip},tcp:80,{ip}"},
        SetType.RANGES: {(ip, TCP, 80, network): f"{ip},tcp:80,{network}"},
        SetType.MARKS: {(ip, TCP, 80, MARK, MASK): f"{ip},tcp:80 skbmark 0x6b000001/0xffffbfff"},
    }
    return some[kind]


KINDS = [kind for kind in SetType if kind is not SetType.CLIENTS]


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_put_in_is_read_back(alone: LoneNamespace, family: Family, kind: SetType) -> None:
    some = entries(family, kind)

    def work() -> None:
        sets = Ipset(family)
        assert sets.create("one", kind)
        assert sets.create("one", kind)
        sets.add("one", list(some))
        sets.add("one", list(some))
        assert sets.members("one") == set(some)
        assert Ipset(family).members("one") == set(some), "the kernel knows what type the set is of"
        assert sets.sizes("o") == {"one": len(some)}
        with pytest.raises(KernelError, match="another type"):
            sets.create("one", next(other for other in KINDS if other is not kind))

    alone.run(work)
    saved = alone.execute("ipset", "save").splitlines()
    assert {line.removeprefix("add one ") for line in saved if line.startswith("add")} == set(some.values())

    def empty() -> None:
        sets = Ipset(family)
        sets.delete("one", list(some))
        sets.delete("one", list(some))
        assert sets.members("one") == set()
        assert sets.destroy("one")
        assert sets.named("") == set()

    alone.run(empty)


@pytest.mark.parametrize("family", list(Family))
def test_a_new_mark_takes_the_place_of_the_old_one(alone: LoneNamespace, family: Family) -> None:
    def work() -> None:
        sets = Ipset(family)
        ip = ADDRESS[family]
        sets.create("marks", SetType.MARKS)
        sets.add("marks", [(ip, TCP, 80, 1, 0xFF), (ip, TCP, 81, 1, 0xFF)])
        sets.apply([("marks", [(ip, TCP, 80, 2, 0xFF)], [(ip, TCP, 80, 1, 0xFF), (ip, TCP, 81, 1, 0xFF)])])
        assert sets.members("marks") == {(ip, TCP, 80, 2, 0xFF)}

    alone.run(work)


def test_many_sets_are_changed_in_one_go(alone: LoneNamespace) -> None:
    def work() -> None:
        sets = Ipset(Family.V4)
        some = {kind: list(entries(Family.V4, kind)) for kind in KINDS}
        for kind in KINDS:
            sets.create(kind.name, kind)
        sets.apply([(kind.name, some[kind], []) for kind in KINDS])
        assert {kind: sets.members(kind.name) for kind in KINDS} == {k: set(v) for k, v in some.items()}
        sets.apply([(kind.name, [], some[kind]) for kind in KINDS])
        assert set(sets.sizes("").values()) == {0}

    alone.run(work)


def test_a_refusal_names_the_entry_and_the_others_go_in(alone: LoneNamespace) -> None:
    ports: list[Member] = [("10.0.0.1", TCP, port) for port in range(1, 2001)]
    odd: list[Member] = [("10.0.0.1", TCP, 80, f"10.0.0.0/{length}") for length in (8, 33, 9, 34)]

    def work() -> None:
        sets = Ipset(Family.V4)
        sets.create("ranges", SetType.RANGES)
        sets.create("ports", SetType.PORTS)
        with pytest.raises(
            EntriesRefused, match=r"10.0.0.1,tcp:80,10.0.0.0/33: .* prefix .*; and 1 more"
        ) as caught:
            sets.apply([("ranges", odd, []), ("ports", ports, [])])
        assert set(caught.value.refused) == {("ranges", odd[1]), ("ranges", odd[3])}
        assert sets.members("ranges") == {odd[0], odd[2]}
        assert sets.members("ports") == set(ports)

    alone.run(work)


def test_a_set_that_is_gone_is_told_by_name_and_found_again(alone: LoneNamespace) -> None:
    def work() -> None:
        sets = Ipset(Family.V4)
        sets.create("one", SetType.PORTS)
        Ipset(Family.V4).destroy("one")
        with pytest.raises(NetlinkError, match="ipset one: No such file"):
            sets.add("one", [("10.0.0.1", TCP, 1)])
        sets.create("one", SetType.MARKS)
        sets.add("one", [("10.0.0.1", TCP, 1, 2, 3)])
        assert sets.members("one") == {("10.0.0.1", TCP, 1, 2, 3)}

    alone.run(work)


@pytest.mark.parametrize("family", list(Family))
def test_a_small_set_of_somebody_elses_grows(alone: LoneNamespace, family: Family) -> None:
    inet, program = ("inet", "iptables") if family is Family.V4 else ("inet6", "ip6tables")
    alone.execute(*f"ipset create small hash:ip,port family {inet} hashsize 64 maxelem 64".split())
    alone.execute(*f"{program}-legacy -A INPUT -m set --match-set small dst,dst".split())
    many: list[Member] = [(ADDRESS[family], UDP, port) for port in range(1, 3001)]

    def work() -> None:
        sets = Ipset(family)
        sets.create("small", SetType.PORTS)
        sets.add("small", many)
        assert sets.members("small") == set(many)
        assert sets.named("") == {"small"}
        assert not sets.destroy("small"), "the rule refers to the set that is called so now"

    alone.run(work)


@pytest.mark.parametrize("family", Family)
def test_what_ours_never_are_is_purged(alone: LoneNamespace, family: Family) -> None:
    ours = ADDRESS[family], TCP, 80
    other = "10.0.0.9" if family is Family.V4 else "fd00::9"

    sets = Ipset(family)

    def fill() -> None:
        sets.create("loop", SetType.ENDPOINTS)
        sets.add("loop", [ours])

    alone.run(fill)
    icmp = "icmp" if family is Family.V4 else "icmpv6"
    for entry in (f"{other},tcp:80,{ours[0]}", f"{other},{icmp}:echo-request,{other}"):
        alone.execute("ipset", "add", "loop", entry)

    def work() -> None:
        assert sets.members("loop") == {ours}
        assert sets.sizes("loop") == {"loop": 3}
        sets.purge("loop")
        assert sets.members("loop") == {ours}
        assert sets.sizes("") == {"loop": 1}

    alone.run(work)


def test_a_set_of_ours_that_is_full_says_so(alone: LoneNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetType.PORTS, "max_elements", 64)
    many: list[Member] = [("10.0.0.1", UDP, port) for port in range(1, 3001)]

    def work() -> None:
        sets = Ipset(Family.V4)
        sets.create("small", SetType.PORTS)
        with pytest.raises(EntriesRefused, match=r"ipset small: entry 10.0.0.1,udp:.*: the set is full") as caught:
            sets.add("small", many)
        assert sets.members("small") | {member for _, member in caught.value.refused} == set(many)
        assert caught.value.full == {"small": len(sets.members("small"))}
        assert sets.members("small")

    alone.run(work)


CASES = list(itertools.product(("legacy", "nft"), Family))


def send(family: Family, protocol: Protocol, port: int) -> None:
    """Send one packet that needs no answer to a port of this machine."""
    inet = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    number = {TCP: socket.IPPROTO_TCP, UDP: socket.IPPROTO_UDP, SCTP: 132}[protocol]
    head = {
        TCP: struct.pack("!HHIIBBHHH", 4000, port, 1, 0, 5 << 4, 0x02, 1000, 0, 0),
        UDP: struct.pack("!HHHH", 4000, port, 8, 0),
        SCTP: struct.pack("!HHII", 4000, port, 0, 0),
    }[protocol]
    with socket.socket(inet, socket.SOCK_RAW, number) as raw:
        raw.sendto(head, (LOCALHOST[family], 0))


def counted(alone: LoneNamespace, program: str, chain: str) -> list[int]:
    shown = alone.execute(*f"{program} -w -t mangle -S {chain} -v".split())
    return [
        int(line.split(" -c ")[1].split()[0]) for line in shown.splitlines() if " -c " in line and "-A" in line
    ]


@pytest.mark.parametrize(("flavour", "family"), CASES)
def test_packets_match_by_address_protocol_and_port(alone: LoneNamespace, flavour: str, family: Family) -> None:
    program = f"{'iptables' if family is Family.V4 else 'ip6tables'}-{flavour}"
    ip = LOCALHOST[family]

    def make() -> None:
        sets = Ipset(family)
        half = {Family.V4: "0.0.0.0/1", Family.V6: "::/1"}[family]
        for name, kind, members in (
            ("ports", SetType.PORTS, [(ip, each, 80) for each in (TCP, UDP, SCTP)]),
            ("ranges", SetType.RANGES, [(ip, UDP, 80, half)]),
            ("numbers", SetType.PORT_NUMBERS, [80]),
        ):
            sets.create(name, kind)
            sets.add(name, members)

    alone.run(make)
    for match in ("ports dst,dst", "ranges dst,dst,src", "numbers dst"):
        alone.execute(*f"{program} -w -t mangle -A INPUT -m set --match-set {match}".split())
    for protocol, port in itertools.product((TCP, UDP, SCTP), (80, 81)):
        alone.run(lambda protocol=protocol, port=port: send(family, protocol, port))
    assert counted(alone, program, "INPUT") == [3, 1, 2]


@pytest.mark.parametrize(("flavour", "family"), CASES)
@pytest.mark.parametrize("chain", ["PREROUTING", "OUTPUT"])
def test_a_packet_is_given_the_mark_of_its_entry(
    alone: LoneNamespace, flavour: str, family: Family, chain: str
) -> None:
    program = f"{'iptables' if family is Family.V4 else 'ip6tables'}-{flavour}"
    ip = LOCALHOST[family]

    def make() -> None:
        sets = Ipset(family)
        sets.create("marks", SetType.MARKS)
        sets.add("marks", [(ip, each, 80, MARK, MASK) for each in (TCP, UDP, SCTP)])

    alone.run(make)
    for rule in (
        "-j MARK --set-mark 0x4000",
        "-j SET --map-set marks dst,dst --map-mark",
        f"-m mark --mark {MARK | 0x4000:#x}",
    ):
        alone.execute(*f"{program} -w -t mangle -A {chain} {rule}".split())
    for protocol, port in itertools.product((TCP, UDP, SCTP), (80, 81)):
        alone.run(lambda protocol=protocol, port=port: send(family, protocol, port))
    assert counted(alone, program, chain)[2:] == [3]
