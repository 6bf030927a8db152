"""Somebody changes virtual servers: a glance sees it, and these alone are put right. No look comes by itself."""

import asyncio
import logging
import math

import pytest

from kubeproxy.dataplane.ipvs import overviews
from kubeproxy.model.addresses import Family
from kubeproxy.model.world import World
from kubeproxy.sync import watching
from kubeproxy.sync.syncer import Intervals
from kubeproxy.testing.build import endpoint_slice, key, service, world
from tests.netns.takeover_bed import EXTERNAL, VIP
from tests.scenarios.addresses import HOSTS, virtual
from tests.scenarios.lab import Lab
from tests.uml.ipvs_bed import on_node, servers
from tests.uml.test_ipvs_faults import looked, state, syncing

V4 = Family.V4
GLANCES = Intervals(check=math.inf, glance=0.4)
BE1, BE2 = HOSTS["be1"].v4, HOSTS["be2"].v4
API = virtual("cluster", V4, 200, 12)
WEB, AWAY, OTHER = f"{VIP[V4]}:80", f"{EXTERNAL[V4]}:80", f"{API}:80"
THEIRS = "203.0.113.50:80"


def cluster() -> World:
    return world(
        service("web", VIP[V4], external_ips=(EXTERNAL[V4],)),
        service("api", API),
        endpoint_slice("web", "80", [BE1, BE2]),
        endpoint_slice("api", "80", [BE1, BE2]),
    )


EDITS = {
    "a destination is deleted": (f"ipvsadm -d -t {WEB} -r {BE1}:80", [WEB]),
    "a destination is added": (f"ipvsadm -a -t {WEB} -r 10.244.0.99:80 -m", [WEB]),
    "one is deleted and another server has one more": (
        f"ipvsadm -d -t {WEB} -r {BE1}:80; ipvsadm -a -t {AWAY} -r 10.244.0.99:80 -m",
        [WEB, AWAY],
    ),
    "a server is deleted and somebody else's is made": (f"ipvsadm -D -t {OTHER}; ipvsadm -A -t {THEIRS}", [OTHER]),
    "a server is made anew and leads nowhere": (f"ipvsadm -D -t {WEB}; ipvsadm -A -t {WEB} -s rr", [WEB]),
    "a server has another scheduler": (f"ipvsadm -E -t {AWAY} -s wlc", [AWAY]),
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every glance ask, and every repair come as if there had been none."""
    monkeypatch.setattr(overviews, "REST_AFTER_OVERVIEW", 0)
    monkeypatch.setattr(watching, "MOST_PATIENCE_SECONDS", 0.0)


async def test_what_a_glance_sees_is_put_right_alone(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async with syncing(lab, cluster(), [V4], GLANCES) as (clock, (syncer,)):
        await clock.step(1.0)
        await looked(lambda: syncer.status.queued_since is None)
        before, syncs = state(lab), syncer.status.syncs
        for number, (what, (script, named)) in enumerate(EDITS.items(), 1):
            caplog.clear()
            on_node(lab, "sh", "-ec", script)

            async def is_put_right(number: int = number) -> bool:
                await clock.step(0.4)
                return syncer.status.drifts == number and syncer.status.queued_since is None

            async with asyncio.timeout(20):
                while not await is_put_right():
                    await asyncio.sleep(0.02)
            told = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
            assert len(told) == 1, told
            assert all(f"tcp {each}" in told[0] for each in named), told
            assert told[0].endswith("; put right")
            if THEIRS in script:
                assert any(THEIRS in line for line in servers(lab))
                on_node(lab, "ipvsadm", "-D", "-t", THEIRS)
            assert state(lab) == before, what
            assert syncer.status.syncs == syncs, what
            await clock.step(3.0)
            assert syncer.status.drifts == number, what


async def test_nothing_that_we_do_looks_like_somebody_elses_doing(lab: Lab) -> None:
    """Endpoints and Services come, drain and go; in between are glances, and looks, which delete what drained."""
    served = cluster()
    async with syncing(lab, served, [V4], Intervals(check=2.0, glance=0.4)) as (clock, (syncer,)):
        for turn in range(30):
            slices = endpoint_slice("web", "80", [BE1, BE2] if turn % 2 else [BE1])
            touched = served.apply_slices({(slices.namespace, slices.name): slices})
            touched |= served.apply_services({key("api"): None if turn % 3 else service("api", API)})
            syncs = syncer.status.syncs
            syncer.touch(touched)
            if turn % 4:
                await looked(lambda syncs=syncs: syncer.status.syncs > syncs)
            await clock.step(0.4)
            await asyncio.sleep(0.02)
        await clock.step(5.0)
        await looked(lambda: not any(line.endswith("-w 0") and VIP[V4] in line for line in servers(lab)))
        assert syncer.status.drifts == 0
        assert syncer.status.failures == 0
