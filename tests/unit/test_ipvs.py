"""What `Ipvs` makes of a kernel's answers: a socket that plays them stands in for the kernel."""

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from kubeproxy.kernel import netlink
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.genetlink_messages import CONTROLLER
from kubeproxy.kernel.ipvs import PROBES, Ipvs, IpvsUnavailable
from kubeproxy.kernel.ipvs_messages import encode_command
from kubeproxy.kernel.ipvs_types import Command, Server, ServerKey, Verb
from kubeproxy.kernel.netlink import DumpInterrupted, NetlinkError
from kubeproxy.kernel.netlink_batches import Parcel
from kubeproxy.kernel.netlink_messages import attribute, messages
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

WEB = Server(ServerKey(Protocol.TCP, "10.96.0.1", 80))
ADD, DELETE = Command(Verb.ADD_SERVER, WEB), Command(Verb.DELETE_SERVER, WEB)


class Kernel:
    """Plays one answer a pipeline or dump: a value is returned, an exception raised."""

    def __init__(self) -> None:
        self.family = 33
        self.answers: list[Any] = []
        self.opened = self.closed = self.asked = 0
        self.sent: list[tuple[int, list[bytes]]] = []

    def play(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class PlayedSocket:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        kernel.opened += 1

    def close(self) -> None:
        self._kernel.closed += 1

    def request(self, kind: int, flags: int, body: bytes, what: str = "") -> list[bytes]:
        if kind != CONTROLLER:
            return [self._kernel.play()]
        self._kernel.asked += 1
        if not self._kernel.family:
            raise NetlinkError(errno.ENOENT, what)
        return [bytes(4) + attribute(1, self._kernel.family.to_bytes(2, "little"))]

    def pipeline_packed(self, pack: Callable[[int], Iterable[Parcel]], what: str = "") -> list[int]:
        sent = list(messages(b"".join(data for data, _ in pack(1))))
        self._kernel.sent.append((sent[0][0], [body for _, _, _, body in sent]))
        codes: list[int] = self._kernel.play()
        return codes

    def dump(self, kind: int, body: bytes, what: str = "") -> Iterator[bytes]:
        yield from self._kernel.play()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(netlink, "NetlinkSocket", lambda *_: PlayedSocket(kernel))
    return kernel


def test_one_socket_serves_all_calls(kernel: Kernel) -> None:
    ipvs = Ipvs()
    kernel.answers += [[0], [0, 0], []]
    assert ipvs.run([ADD]) == [0]
    assert ipvs.run([DELETE, ADD]) == [0, 0]
    assert ipvs.servers(Family.V4) == {}
    assert (kernel.opened, kernel.asked, kernel.closed) == (1, 1, 0)
    assert kernel.sent[1] == (33, [encode_command(DELETE), encode_command(ADD)])


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (NetlinkError(errno.ENOBUFS, "IPVS: answers were lost"), "answers were lost: No buffer space"),
        (NetlinkError(errno.EBUSY, "IPVS"), "IPVS: Device or resource busy"),
        (NetlinkError(errno.EPERM, "IPVS"), "IPVS: Operation not permitted"),
        (OSError(errno.ENOMEM, "nomem"), "IPVS: Cannot allocate memory"),
        (TimeoutError(errno.ETIMEDOUT, "late"), "IPVS: Connection timed out"),
        (TimeoutError("late"), "IPVS: Connection timed out"),
        (DumpInterrupted("IPVS virtual servers: changed while it was read"), "changed while it was read"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [lambda ipvs: ipvs.run([ADD]), lambda ipvs: ipvs.servers(Family.V4), lambda ipvs: ipvs.destinations(WEB.key)],
)
def test_a_failure_is_told_and_the_next_call_starts_anew(
    kernel: Kernel, failure: Exception, text: str, call: Callable[[Ipvs], object]
) -> None:
    ipvs = Ipvs()
    kernel.answers += [[0], failure, [0]]
    ipvs.run([ADD])
    with pytest.raises(KernelError, match=text):
        call(ipvs)
    assert kernel.closed == 1
    assert ipvs.run([ADD]) == [0]
    assert (kernel.opened, kernel.asked) == (2, 2)


def test_a_module_loaded_anew_has_another_number(kernel: Kernel) -> None:
    ipvs = Ipvs()
    kernel.answers += [[0], [errno.ENOENT], [0]]
    ipvs.run([ADD])
    kernel.family = 34
    assert ipvs.run([ADD]) == [errno.ENOENT]
    assert ipvs.run([ADD]) == [0]
    assert [kind for kind, _ in kernel.sent] == [33, 33, 34]
    assert kernel.opened == 1


def test_a_kernel_without_ipvs(kernel: Kernel) -> None:
    ipvs = Ipvs()
    kernel.family = 0
    assert not ipvs.available()
    assert not ipvs.flush()
    with pytest.raises(IpvsUnavailable, match="modprobe ip_vs"):
        ipvs.run([ADD])
    kernel.family = 33  # somebody loaded it
    assert ipvs.available()


@pytest.mark.parametrize(("code", "expected"), [(0, True), (errno.ENOENT, False)])
def test_a_scheduler_is_tried(kernel: Kernel, code: int, expected: bool) -> None:
    kernel.answers.append([errno.ESRCH, code, code and errno.ESRCH])
    assert Ipvs().has_scheduler("mh") is expected
    delete = encode_command(Command(Verb.DELETE_SERVER, Server(PROBES[Family.V4])))
    add = encode_command(Command(Verb.ADD_SERVER, Server(PROBES[Family.V4], "mh")))
    assert kernel.sent == [(33, [delete, add, delete])]


def test_a_scheduler_that_cannot_be_tried_is_an_error(kernel: Kernel) -> None:
    kernel.answers.append([errno.EPERM] * 3)
    with pytest.raises(NetlinkError, match="scheduler mh: Operation not permitted"):
        Ipvs().has_scheduler("mh")


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ESRCH, True), (0, True), (errno.EAFNOSUPPORT, False)], ids=str
)
def test_a_family_that_the_kernel_was_built_without_is_found_out(
    kernel: Kernel, code: int, expected: bool
) -> None:
    kernel.answers.append([code])
    assert Ipvs().serves(Family.V6) is expected
    assert kernel.sent == [(33, [encode_command(Command(Verb.DELETE_SERVER, Server(PROBES[Family.V6])))])]


def test_a_family_that_cannot_be_asked_for_is_an_error(kernel: Kernel) -> None:
    kernel.answers.append([errno.EPERM])
    with pytest.raises(NetlinkError, match="IPv6: Operation not permitted"):
        Ipvs().serves(Family.V6)


def test_a_kernel_that_does_not_count_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counts: list[int | None] = [None, None, 7, None]

    def answer(asked: socket.socket, level: int, option: int, size: int) -> bytes:
        count = counts.pop(0)
        if count is None:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return struct.pack("=III", 0x010201, 4096, count)

    monkeypatch.setattr(socket.socket, "getsockopt", answer)
    ipvs = Ipvs()
    assert [ipvs.count(Family.V4) for _ in range(2)] == [None, None]
    assert len(caplog.records) == 1
    assert "found later" in caplog.text
    assert [ipvs.count(Family.V4) for _ in range(2)] == [7, None]
    assert len(caplog.records) == 2
    assert ipvs.count(Family.V6) is None
    assert len(caplog.records) == 2
