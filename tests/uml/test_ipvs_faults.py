"""Somebody meddles with what ipvs mode has in the kernel: seen at the next look, put right, counted as drift.

Time is stepped: five seconds pass at once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from kubeproxy.model.world import World
from kubeproxy.sync import watching
from kubeproxy.sync.syncer import Intervals, Syncer
from kubeproxy.testing.build import crowd, endpoint_slice, service, world
from tests.netns.takeover_bed import EXTERNAL, NODE_PORT, VIP
from tests.scenarios.addresses import HOSTS, NODE, virtual
from tests.scenarios.lab import Lab
from tests.scenarios.probes import Answer, probe
from tests.uml.ipvs_bed import Inside, on_node
from tests.waiting import eventually

BE1, BE2 = HOSTS["be1"], HOSTS["be2"]
EMPTY = {family: virtual("cluster", family, 200, 12) for family in Family}
SERVICES = world(
    service("web", ",".join(VIP.values()), node_port=NODE_PORT, external_ips=tuple(EXTERNAL.values())),
    service("empty", ",".join(EMPTY.values())),
    *(
        endpoint_slice("web", "80", [BE1.address(family), BE2.address(family)], suffix=family.label.lower())
        for family in Family
    ),
)
V4, V6 = Family.V4, Family.V6
WEB4, WEB6 = f"{VIP[V4]}:80", f"[{VIP[V6]}]:80"

FAULTS = {
    "the device is deleted": "ip link del kube-ipvs0",
    "an address is put on the device and taken away, and all its IPv4 routes go": (
        "ip addr add 10.9.9.9/32 dev kube-ipvs0; ip addr del 10.9.9.9/32 dev kube-ipvs0"
    ),
    "a local address is deleted": f"ip -6 route del local {VIP[V6]} dev kube-ipvs0 table local",
    "a virtual server is deleted": f"ipvsadm -D -t {WEB4}",
    "a virtual server has another scheduler": f"ipvsadm -E -t {WEB6} -s wlc",
    "a virtual server became sticky": f"ipvsadm -E -t {WEB4} -s rr -p 60",
    "a destination is deleted": f"ipvsadm -d -t {WEB4} -r {BE1.v4}:80",
    "a destination gets nothing": f"ipvsadm -e -t {WEB6} -r [{BE2.v6}]:80 -m -w 0",
    "a destination is somebody else's": f"ipvsadm -a -t {WEB4} -r 10.244.0.99:80 -m -w 1",
    "a destination is reached by another way": f"ipvsadm -e -t {WEB4} -r {BE1.v4}:80 -g -w 1",
    "a set's entry is deleted": f"ipset del KUBE-CLUSTER-IP {VIP[V4]},tcp:80",
    "the set of our own virtual servers is emptied": "ipset flush KUBE-VIRTUAL-SERVERS",
    "the set of local addresses is emptied": "ipset flush KUBE-6-IPVS-IPS",
    "a set has an entry too many": "ipset add KUBE-NO-LOCAL 10.9.9.9,tcp:80",
    "a set has an entry that ours never are": "ipset add KUBE-LOOP-BACK 10.9.9.9,tcp:80,10.8.8.8",
    "rules are gone": "iptables-legacy -t mangle -F; iptables-legacy -t nat -F",
}


def state(lab: Lab) -> list[str]:
    """Return what serves, all but the rules; what gets no new connections leaves with its last one."""
    lines = [line for line in on_node(lab, "ipset", "save").splitlines() if not line.startswith("create")]
    lines += [line for line in on_node(lab, "ipvsadm", "-S", "-n").splitlines() if not line.endswith("-w 0")]
    for ip in ("-4", "-6"):
        routes = on_node(lab, "ip", ip, "route", "show", "table", "local", "dev", "kube-ipvs0").splitlines()
        lines += [line for line in routes if line.startswith("local")]
    return sorted(lines)


@asynccontextmanager
async def syncing(
    lab: Lab, served: World, families: list[Family], intervals: Intervals | None = None
) -> AsyncIterator[tuple[ManualClock, list[Syncer]]]:
    """Run syncers, and nothing but looks every five seconds unless ``intervals`` say otherwise."""
    clock = ManualClock()
    syncers = []
    for family in families:
        backend = Inside(lab, "ipvs", family)
        syncers.append(Syncer(served, backend, backend.settings, family, clock, intervals=intervals))
    tasks = [asyncio.ensure_future(each.run()) for each in syncers]
    for each in syncers:
        each.synced()
    try:
        await looked(lambda: all(each.status.synced for each in syncers))
        yield clock, syncers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def looked(holds: Callable[[], bool]) -> None:
    """Wait until something holds; what is done, is done by threads."""

    async def ask() -> bool:
        await asyncio.sleep(0.02)
        return holds()

    await eventually(ask)


def answered(lab: Lab) -> None:
    for family in Family:
        for client, address, port in (
            ("pod", VIP[family], 80),
            ("outside", NODE.address(family), NODE_PORT),
            ("node", EXTERNAL[family], 80),
        ):
            for _ in range(3):
                found = probe(lab, client, Protocol.TCP, address, port)
                assert isinstance(found, Answer), f"{client} {address}:{port}: {found}"


async def test_whatever_somebody_does_is_put_right_at_the_next_look(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_PATIENCE_SECONDS", 0.0)  # as if nobody had done anything before
    async with syncing(lab, SERVICES, list(Family)) as (clock, syncers):
        before = state(lab)
        for what, script in FAULTS.items():
            drifts = sum(each.status.drifts for each in syncers)

            def is_put_right(drifts: int = drifts) -> bool:
                return sum(each.status.drifts for each in syncers) > drifts

            on_node(lab, "sh", "-ec", script)
            await clock.step(5.0)
            await looked(is_put_right)
            await looked(lambda: all(each.status.queued_since is None for each in syncers))
            assert state(lab) == before, what
            assert not any(each.status.last_error for each in syncers), what
        assert sum(each.status.failures for each in syncers) == 0
        await asyncio.to_thread(answered, lab)


async def test_ten_thousand_addresses_come_back(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    async with syncing(lab, crowd(10_000), [V4]) as (clock, (syncer,)):
        count = len(on_node(lab, "ip", "route", "show", "table", "local", "dev", "kube-ipvs0").splitlines())
        assert count == 10_000
        took = {}
        for number, script in enumerate(("ip link del kube-ipvs0", "ipset flush KUBE-VIRTUAL-SERVERS"), 1):
            on_node(lab, "sh", "-ec", script)
            begun = time.monotonic()
            await clock.step(5.0)
            await looked(lambda number=number: syncer.status.full_syncs == number + 1)
            took[script] = round(time.monotonic() - begun, 2)
            routes = on_node(lab, "ip", "route", "show", "table", "local", "dev", "kube-ipvs0").splitlines()
            assert len(routes) == 10_000
            assert (
                on_node(lab, "sh", "-c", "ipset list -t KUBE-VIRTUAL-SERVERS | grep entries").split()[-1]
                == "10000"
            )
            assert syncer.status.drifts == number
        record_property("seconds from the look until it was put right", took)
