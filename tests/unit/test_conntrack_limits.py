"""Limits of connection tracking (reference/kube-proxy.md §4.3), on machines that are dictionaries.

Nothing in here touches the hash table of the machine that runs the tests: who may is passed in.
"""

import errno

import pytest

from kubeproxy.kernel.conntrack_limits import FakeMachine, ensure_limits
from kubeproxy.kernel.sysctl import FakeSysctls, SysctlRefused
from kubeproxy.model.conntrack_limits import MAX, ConntrackLimits

pytestmark = pytest.mark.unit

PREFIX = "net/netfilter/nf_conntrack_"
FRESH = {
    MAX: "65536",
    f"{PREFIX}tcp_timeout_established": "432000",
    f"{PREFIX}tcp_timeout_close_wait": "60",
    f"{PREFIX}udp_timeout": "30",
    f"{PREFIX}udp_timeout_stream": "120",
    f"{PREFIX}tcp_be_liberal": "0",
}
"""What Linux begins with on a small machine."""


@pytest.mark.parametrize(
    ("limits", "cpus", "entries"),
    [
        (ConntrackLimits(), 1, 131072),
        (ConntrackLimits(), 4, 131072),
        (ConntrackLimits(), 5, 163840),
        (ConntrackLimits(), 32, 1048576),
        (ConntrackLimits(), 33, 1048576),
        (ConntrackLimits(), 512, 1048576),
        (ConntrackLimits(min=0), 2, 65536),
        (ConntrackLimits(min=2_000_000), 2, 2_000_000),
        (ConntrackLimits(max_per_core=0), 4, 0),
        (ConntrackLimits(max_per_core=0, min=500_000), 4, 0),
    ],
)
def test_how_many_connections_there_is_room_for(limits: ConntrackLimits, cpus: int, entries: int) -> None:
    assert limits.entries(cpus) == entries


def test_upstreams_defaults_on_a_fresh_node() -> None:
    sysctls, machine = FakeSysctls(FRESH), FakeMachine(cpus=8, buckets=16384)
    assert ensure_limits(sysctls, machine, ConntrackLimits()) == []
    assert sysctls.values == FRESH | {
        MAX: "262144",
        f"{PREFIX}tcp_timeout_established": "86400",
        f"{PREFIX}tcp_timeout_close_wait": "3600",
    }
    assert (machine.size, machine.loads) == (65536, 0)


def test_everything_that_can_be_asked_for() -> None:
    sysctls = FakeSysctls(FRESH)
    limits = ConntrackLimits(
        max_per_core=0,
        tcp_established=0,
        tcp_close_wait=30.9,
        tcp_be_liberal=True,
        udp_timeout=10,
        udp_stream_timeout=60,
    )
    machine = FakeMachine(buckets=5)
    ensure_limits(sysctls, machine, limits)
    assert sysctls.values == FRESH | {
        f"{PREFIX}tcp_timeout_close_wait": "30",
        f"{PREFIX}tcp_be_liberal": "1",
        f"{PREFIX}udp_timeout": "10",
        f"{PREFIX}udp_timeout_stream": "60",
    }
    assert machine.size == 5


def test_a_hash_table_that_is_large_enough_is_left_alone() -> None:
    machine = FakeMachine(cpus=8, buckets=65536, refusal=PermissionError(errno.EACCES, "Permission denied"))
    assert ensure_limits(FakeSysctls(FRESH), machine, ConntrackLimits()) == []


def test_a_hash_table_that_cannot_grow_is_told_and_no_reason_to_stop() -> None:
    machine = FakeMachine(cpus=8, buckets=1024, refusal=OSError(errno.EROFS, "Read-only file system"))
    sysctls = FakeSysctls(FRESH)
    (note,) = ensure_limits(sysctls, machine, ConntrackLimits())
    assert "hashsize stays below 65536 (Read-only file system)" in note
    assert (sysctls.read(MAX), sysctls.read(f"{PREFIX}tcp_timeout_close_wait")) == ("262144", "3600")


def test_in_another_namespace_the_machines_limits_are_read_and_the_others_set() -> None:
    sysctls = FakeSysctls(FRESH)
    sysctls.fixed = {MAX}
    machine = FakeMachine(cpus=8, buckets=1024)
    (note,) = ensure_limits(sysctls, machine, ConntrackLimits())
    assert f"{MAX} is 65536, 262144 are wanted" in note
    assert machine.size == 1024
    assert sysctls.read(f"{PREFIX}tcp_timeout_established") == "86400"
    sysctls.values[MAX] = "262144"
    assert ensure_limits(sysctls, machine, ConntrackLimits()) == []


@pytest.mark.parametrize("name", [MAX, f"{PREFIX}tcp_timeout_close_wait"])
def test_a_limit_that_is_ours_and_refused_ends_the_start(name: str) -> None:
    sysctls = FakeSysctls(FRESH)
    sysctls.refused = {name}
    with pytest.raises(SysctlRefused, match=f"{name}=.*set it before the start"):
        ensure_limits(sysctls, FakeMachine(cpus=8), ConntrackLimits())
    ensure_limits(sysctls, FakeMachine(), ConntrackLimits(max_per_core=0, tcp_close_wait=0))


def test_connection_tracking_is_loaded_when_it_is_not_there() -> None:
    sysctls = FakeSysctls()

    class Loading(FakeMachine):
        def load(self) -> None:
            sysctls.values.update(FRESH)

    assert ensure_limits(sysctls, Loading(), ConntrackLimits()) == []
    assert sysctls.read(MAX) == "131072"


def test_a_kernel_without_connection_tracking_says_so() -> None:
    machine = FakeMachine()
    with pytest.raises(SysctlRefused, match="modprobe nf_conntrack"):
        ensure_limits(FakeSysctls(), machine, ConntrackLimits())
    assert machine.loads == 1
