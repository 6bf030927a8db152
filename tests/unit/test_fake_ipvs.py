"""The model of IPVS does what its knobs say; what the kernel does, tests/uml holds it against."""

import errno

import pytest

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_ipvs import FakeVirtualServers
from kubeproxy.kernel.ipvs_types import (
    Command,
    Destination,
    Found,
    Server,
    ServerKey,
    Timeouts,
    Verb,
)
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

WEB = Server(ServerKey(Protocol.TCP, "10.96.0.1", 80))
POD, OTHER = Destination("10.244.1.2", 8080), Destination("10.244.1.3", 8080)
ADD, ADD_POD = Command(Verb.ADD_SERVER, WEB), Command(Verb.ADD_DESTINATION, WEB, POD)


def test_later_commands_run_after_one_is_refused() -> None:
    fake = FakeVirtualServers()
    servers: VirtualServers = fake
    assert servers.run([ADD_POD, ADD, ADD, ADD_POD]) == [errno.ESRCH, 0, errno.EEXIST, 0]
    assert servers.servers(Family.V4) == {WEB.key: WEB}
    assert servers.servers(Family.V6) == {}
    assert servers.destinations(WEB.key) == [Found(POD)]
    assert fake.log == [ADD_POD, ADD, ADD, ADD_POD]
    assert servers.flush()
    assert servers.servers(Family.V4) == {}


def test_connections_outlive_a_deletion() -> None:
    fake = FakeVirtualServers()
    fake.run([ADD, ADD_POD, Command(Verb.ADD_DESTINATION, WEB, OTHER)])
    fake.set_connections(WEB.key, POD.address, POD.port, active=2, inactive=1, persistent=1)
    assert fake.destinations(WEB.key) == [Found(OTHER), Found(POD, 2, 1, 1)]
    fake.run([Command(Verb.DELETE_DESTINATION, WEB, POD), ADD_POD])
    assert fake.destinations(WEB.key) == [Found(POD, 2, 1, 1), Found(OTHER)]


def test_a_scheduler_that_is_not_there() -> None:
    fake = FakeVirtualServers(schedulers=("rr",))
    assert fake.has_scheduler("rr")
    assert not fake.has_scheduler("mh")
    assert fake.run([Command(Verb.ADD_SERVER, Server(WEB.key, "mh")), ADD_POD]) == [errno.ENOENT, errno.ESRCH]


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EBUSY])
def test_a_failure_is_raised_once_and_nothing_is_done(code: int) -> None:
    fake = FakeVirtualServers()
    fake.failures.append(NetlinkError(code, "IPVS"))
    with pytest.raises(KernelError):
        fake.run([ADD])
    assert fake.servers(Family.V4) == {}
    assert fake.run([ADD]) == [0]


def test_a_refusal_is_for_commands_of_one_kind() -> None:
    fake = FakeVirtualServers()
    fake.refusals[Verb.ADD_DESTINATION] = [0, errno.ENOMEM]
    assert fake.run([ADD, ADD_POD, Command(Verb.ADD_DESTINATION, WEB, OTHER)]) == [0, 0, errno.ENOMEM]
    assert fake.destinations(WEB.key) == [Found(POD)]


def test_a_kernel_without_ipvs() -> None:
    fake = FakeVirtualServers(present=False)
    assert not fake.available()
    assert not fake.flush()
    with pytest.raises(KernelError, match="modprobe ip_vs"):
        fake.servers(Family.V4)


def test_a_timeout_of_0_is_left_as_it_is() -> None:
    fake = FakeVirtualServers()
    fake.set_timeouts(tcp_fin=60)
    assert fake.timeouts() == Timeouts(900, 60, 300)
