"""The kernel's connection tracking by our own messages, in a namespace with flows made by real packets."""

import errno
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from kubeproxy.kernel import conntrack as conntrack_module
from kubeproxy.kernel import conntrack_messages as messages
from kubeproxy.kernel import netlink
from kubeproxy.kernel.conntrack import ConntrackUnavailable, KernelConntrack
from kubeproxy.kernel.conntrack_limits import ThisMachine, ensure_limits
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.netlink_batches import ANSWER_BYTES
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, NLM_F_DUMP_INTR, NLMSG_DONE, attributes
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.conntrack_limits import MAX, ConntrackLimits
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.objects import Protocol
from tests.netns.lone_namespace import LoneNamespace, lone_namespace

pytestmark = pytest.mark.netns

UDP = FlowMatch(protocol=Protocol.UDP)
LOOPBACK = {Family.V4: ("127.0.0.1", "127.0.0.2"), Family.V6: ("fd00::1", "fd00::2")}


@pytest.fixture(scope="module")
def namespace() -> Iterator[LoneNamespace]:
    with lone_namespace() as made:
        made.ip("link set lo up", "addr add fd00::1/128 dev lo nodad", "addr add fd00::2/128 dev lo nodad")
        for program in ("iptables", "ip6tables"):  # tracking begins with the first rule that asks for it
            made.execute(program, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW")
        yield made


def send(namespace: LoneNamespace, family: Family, ports: range, kind: int = socket.SOCK_DGRAM) -> None:
    def work() -> None:
        af = socket.AF_INET if family is Family.V4 else socket.AF_INET6
        source, destination = LOOPBACK[family]
        for port in ports:
            with socket.socket(af, kind) as client, socket.socket(af, kind) as server:
                client.bind((source, 0))
                server.bind((destination, port))
                if kind == socket.SOCK_STREAM:
                    server.listen()
                client.connect((destination, port))
                client.send(b"?")

    namespace.run(work)


@pytest.mark.parametrize("family", list(Family))
def test_flows_are_read_and_deleted(namespace: LoneNamespace, family: Family) -> None:
    conntrack = KernelConntrack(family)
    send(namespace, family, range(1000, 1010))
    send(namespace, family, range(1000, 1001), socket.SOCK_STREAM)
    found = namespace.run(lambda: list(conntrack.flows(UDP)))
    assert {flow.port for flow in found} == set(range(1000, 1010))
    source, destination = LOOPBACK[family]
    assert {(flow.source, flow.destination, flow.translated) for flow in found} == {(source, destination, False)}
    few = FlowMatch(protocol=Protocol.UDP, ports=frozenset({1000, 1001}))
    assert sorted(flow.port for flow in namespace.run(lambda: list(conntrack.flows(few)))) == [1000, 1001]
    nobody = FlowMatch(protocol=Protocol.UDP, destination=source)
    assert namespace.run(lambda: list(conntrack.flows(nobody))) == []
    chosen = FlowMatch(protocol=Protocol.UDP, source=source, destination=destination, ports=frozenset({1003}))
    assert len(namespace.run(lambda: list(conntrack.flows(chosen)))) == 1

    entries, limit = namespace.run(conntrack.size)
    assert entries >= 11
    assert limit > 0
    assert namespace.run(lambda: conntrack.delete(found)) == 10
    assert namespace.run(lambda: conntrack.delete(found)) == 0
    assert namespace.run(lambda: list(conntrack.flows(UDP))) == []
    tcp = FlowMatch(protocol=Protocol.TCP)
    assert len(namespace.run(lambda: list(conntrack.flows(tcp)))) == 1
    assert namespace.run(lambda: conntrack.delete(list(conntrack.flows(tcp)))) == 1


def test_an_entry_of_the_same_tuple_and_another_number_is_not_deleted(namespace: LoneNamespace) -> None:
    conntrack = KernelConntrack(Family.V4)
    send(namespace, Family.V4, range(2000, 2001))
    (flow,) = namespace.run(lambda: list(conntrack.flows(UDP)))
    number = dict(attributes(flow.handle[4:]))[messages.CTA_ID]
    other = msgspec.structs.replace(flow, handle=flow.handle.replace(number, b"\1\2\3\4"))
    assert namespace.run(lambda: conntrack.delete([other])) == 0
    assert namespace.run(lambda: conntrack.delete([flow])) == 1


def test_more_deletions_than_one_send_holds(namespace: LoneNamespace) -> None:
    conntrack = KernelConntrack(Family.V4)
    with netlink.NetlinkSocket(NETLINK_NETFILTER) as usual:
        send(namespace, Family.V4, range(3000, 3000 + 3 * usual.answers_bytes // ANSWER_BYTES))
    found = namespace.run(lambda: list(conntrack.flows(UDP)))
    half = found[::2]
    assert namespace.run(lambda: conntrack.delete(half)) == len(half)
    # Half of each batch is refused now, and every refusal is heard of.
    assert namespace.run(lambda: conntrack.delete(found)) == len(found) - len(half)


def test_a_kernel_that_takes_no_filter_is_asked_for_everything(
    namespace: LoneNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(namespace, Family.V4, range(4000, 4003))
    # Linux refuses flags that it does not know, as one before 5.8 might a filter.
    monkeypatch.setattr(messages, "FILTER_PROTO_NUM", 1 << 31)
    conntrack = KernelConntrack(Family.V4)
    one = FlowMatch(protocol=Protocol.UDP, ports=frozenset({4001}))
    assert [flow.port for flow in namespace.run(lambda: list(conntrack.flows(one)))] == [4001]
    monkeypatch.undo()
    namespace.run(lambda: conntrack.delete(list(conntrack.flows(UDP))))


def test_a_kernel_without_connection_tracking_says_what_to_do(
    namespace: LoneNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack_module, "SUBSYSTEM", 0x0E00)  # a subsystem that no kernel has
    conntrack = KernelConntrack(Family.V4)
    for ask in (lambda: list(conntrack.flows(UDP)), conntrack.size):
        with pytest.raises(ConntrackUnavailable, match="modprobe nf_conntrack_netlink"):
            namespace.run(ask)
    monkeypatch.setattr(conntrack_module, "NETLINK_NETFILTER", 30)
    with pytest.raises(ConntrackUnavailable, match="modprobe"):
        namespace.run(lambda: list(conntrack.flows(UDP)))


def test_an_answer_that_is_lost_is_told_after_what_came(
    namespace: LoneNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(namespace, Family.V4, range(5000, 5300))
    conntrack = KernelConntrack(Family.V4)
    real = netlink.NetlinkSocket._receive
    received = []

    def one_datagram(self: netlink.NetlinkSocket, what: str) -> Iterator[tuple[int, int, int, bytes]]:
        if received:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        received.append(1)
        return real(self, what)

    monkeypatch.setattr(netlink.NetlinkSocket, "_receive", one_datagram)
    found: list[Flow] = []

    def work() -> None:
        for flow in conntrack.flows(UDP):
            found.append(flow)

    with pytest.raises(DumpInterrupted):
        namespace.run(work)
    assert 0 < len(found) < 300
    monkeypatch.undo()
    namespace.run(lambda: conntrack.delete(list(conntrack.flows(UDP))))


@pytest.mark.parametrize("how", ["a flag on an answer", "an error at the end"])
def test_a_table_that_changes_while_it_is_read_is_told_after_what_came(
    namespace: LoneNamespace, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    send(namespace, Family.V4, range(5000, 5003))
    real = netlink.NetlinkSocket._receive

    def receive(self: netlink.NetlinkSocket, what: str) -> Iterator[tuple[int, int, int, bytes]]:
        for kind, flags, sequence, body in real(self, what):
            if how == "a flag on an answer":
                yield kind, flags | NLM_F_DUMP_INTR, sequence, body
            else:
                yield kind, flags, sequence, struct.pack("=i", -errno.EINTR) if kind == NLMSG_DONE else body

    monkeypatch.setattr(netlink.NetlinkSocket, "_receive", receive)
    conntrack, found = KernelConntrack(Family.V4), list[Flow]()

    def work() -> None:
        for flow in conntrack.flows(UDP):
            found.append(flow)

    with pytest.raises(DumpInterrupted, match="changed while it was read"):
        namespace.run(work)
    assert len(found) == 3
    monkeypatch.undo()
    assert namespace.run(lambda: conntrack.delete(list(conntrack.flows(UDP)))) == 3


def test_without_the_right_to_ask_the_refusal_is_told(namespace: LoneNamespace) -> None:
    code = (
        "from kubeproxy.kernel.conntrack import KernelConntrack\n"
        "from kubeproxy.model.addresses import Family\n"
        "try: KernelConntrack(Family.V4).size()\n"
        "except Exception as error: print(error)"
    )
    bounded = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert namespace.execute(*bounded, sys.executable, "-c", code).strip() == "conntrack: Operation not permitted"


class NotThisMachine(ThisMachine):
    """All of this machine but its hash table, which is everybody's."""

    def resize(self, buckets: int) -> None:
        raise AssertionError("a test must not touch the machine's hash table")


def test_limits_in_a_namespace_of_its_own(namespace: LoneNamespace) -> None:
    sysctls, machine = ProcSysctls(), NotThisMachine()
    limits = ConntrackLimits(max_per_core=1, min=1, tcp_established=7200, tcp_be_liberal=True, udp_timeout=25)

    def work() -> tuple[list[str], list[str]]:
        before = sysctls.read(MAX)
        notes = ensure_limits(sysctls, machine, limits)
        found = [sysctls.read(f"net/netfilter/nf_conntrack_{name}") for name in NAMES]
        return notes, [*found, "kept" if sysctls.read(MAX) == before else "changed"]

    assert namespace.run(work) == ([], ["7200", "3600", "1", "25", "kept"])
    greedy = msgspec.structs.replace(limits, min=1 << 30)
    (note,) = namespace.run(lambda: ensure_limits(sysctls, machine, greedy))
    assert "1073741824 are wanted" in note


NAMES = ("tcp_timeout_established", "tcp_timeout_close_wait", "tcp_be_liberal", "udp_timeout")


def test_a_user_namespace_takes_them_too() -> None:
    code = (
        "from tests.netns.test_conntrack import *\n"
        "print(ensure_limits(ProcSysctls(), NotThisMachine(), ConntrackLimits(min=1, max_per_core=1)))\n"
        "print(ProcSysctls().read('net/netfilter/nf_conntrack_tcp_timeout_close_wait'))"
    )
    argv = ["unshare", "-Urn", sys.executable, "-c", code]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("[]\n3600\n", "")


def test_a_half_closed_connection_is_kept_for_an_hour(namespace: LoneNamespace) -> None:
    # reference/kube-proxy.md §6.3 row 81
    namespace.run(lambda: ensure_limits(ProcSysctls(), NotThisMachine(), ConntrackLimits(max_per_core=0)))

    def sockets() -> tuple[socket.socket, socket.socket]:
        return socket.create_server(("127.0.0.2", 6000)), socket.socket()

    server, client = namespace.run(sockets)
    with server, client:
        client.connect(("127.0.0.2", 6000))
        with server.accept()[0]:
            client.shutdown(socket.SHUT_WR)
            for _ in range(100):  # the other side's acknowledgement may be delayed
                listed = namespace.execute("conntrack", "-L", "-p", "tcp", "--dport", "6000").split()
                if listed[3] == "CLOSE_WAIT":
                    break
                time.sleep(0.02)
            assert listed[3] == "CLOSE_WAIT"
            assert 3540 <= int(listed[2]) <= 3600
