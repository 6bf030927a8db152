"""Changes that wait and how long they took, as upstream's trackers count them."""

import msgspec
import pytest

from kubeproxy.health.changes import MOST_STEPS, MOST_TIMES, Changes
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice
from kubeproxy.model.timestamps import micro_timestamp
from kubeproxy.testing.build import endpoint_slice

pytestmark = pytest.mark.unit

BEGAN = 1_700_000_000.0


def changes(*families: Family) -> Changes:
    return Changes(families or (Family.V4,), BEGAN)


def piece(happened: float | str = "", *, address: str = "10.0.0.1", suffix: str = "a") -> EndpointSlice:
    text = happened if isinstance(happened, str) else micro_timestamp(BEGAN + happened)
    built = endpoint_slice("web", "80", [address] if address else [], suffix=suffix)
    return msgspec.structs.replace(built, last_change_trigger_time=text)


def test_what_came_before_a_sync_began_does_not_wait_after_it() -> None:
    it = changes()
    it.services_changed(2, now=1)
    it.slices_changed([(None, piece())], now=2)
    assert (it.pending_services, it.pending_slices) == (2, 1)
    it.services_changed(1, now=4)
    it.synced(Family.V4, started=3, wall=BEGAN)
    assert (it.pending_services, it.pending_slices) == (1, 0)
    it.synced(Family.V4, started=4, wall=BEGAN)
    assert it.pending_services == 0


def test_a_change_waits_for_the_slower_family() -> None:
    it = changes(Family.V4, Family.V6)
    it.services_changed(1, now=1)
    it.synced(Family.V4, started=2, wall=BEGAN)
    assert it.pending_services == 1
    it.synced(Family.V6, started=2, wall=BEGAN)
    assert it.pending_services == 0


def test_what_is_the_same_is_no_change() -> None:
    it = changes()
    it.services_changed(0, now=1)
    it.slices_changed([(piece(5), piece(5)), (None, None)], now=1)
    assert (it.pending_services, it.pending_slices) == (0, 0)
    assert it.synced(Family.V4, started=2, wall=BEGAN + 10) == []


def test_each_change_of_a_service_is_measured_once() -> None:
    it = changes()
    it.slices_changed([(None, piece(1)), (None, piece(2, suffix="b"))], now=1)
    it.slices_changed([(piece(1), piece(3))], now=2)
    assert it.synced(Family.V4, started=1.5, wall=BEGAN + 4) == pytest.approx([3, 2])
    assert it.synced(Family.V4, started=2.5, wall=BEGAN + 5) == pytest.approx([2])
    assert it.synced(Family.V4, started=3, wall=BEGAN + 6) == []


@pytest.mark.parametrize("happened", [-1, 0, "", "yesterday", "2023-13-99T00:00:00Z"])
def test_what_happened_before_the_start_or_at_no_time_is_not_measured(happened: float | str) -> None:
    it = changes()
    it.slices_changed([(None, piece(happened))], now=1)
    assert it.pending_slices == 1
    assert it.synced(Family.V4, started=2, wall=BEGAN + 9) == []


def test_a_slice_that_is_deleted_drops_what_waits_of_its_service() -> None:
    it = changes()
    it.slices_changed([(None, piece(1)), (None, piece(2, suffix="b"))], now=1)
    it.slices_changed([(piece(1), None)], now=2)
    assert it.synced(Family.V4, started=3, wall=BEGAN + 9) == []


def test_a_family_measures_its_own_slices() -> None:
    it = changes(Family.V4, Family.V6)
    it.slices_changed([(None, piece(1)), (None, piece(2, address="fd00::1", suffix="b"))], now=1)
    assert it.synced(Family.V6, started=2, wall=BEGAN + 9) == pytest.approx([7])
    assert it.synced(Family.V4, started=2, wall=BEGAN + 9) == pytest.approx([8])


def test_addresses_of_no_family_that_is_served_are_passed_over() -> None:
    it = changes(Family.V4)
    named = msgspec.structs.replace(piece(1), address_type="FQDN")
    it.slices_changed([(None, named), (None, piece(1, address="fd00::1"))], now=1)
    it.slices_changed([(named, None)], now=1)
    assert it.synced(Family.V4, started=2, wall=BEGAN + 9) == []


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    it = changes()
    it.slices_changed([(None, piece(100))], now=1)
    assert it.synced(Family.V4, started=2, wall=BEGAN + 9) == [0]


def test_a_kernel_that_takes_nothing_costs_no_memory_without_end() -> None:
    it = changes()
    before = None
    for i in range(MOST_STEPS + 1000):
        after = piece(i + 1)
        it.services_changed(1, now=i)
        it.slices_changed([(before, after)], now=i)
        before = after
    assert len(it._steps) == MOST_STEPS
    assert it.pending_services == it.pending_slices == MOST_STEPS + 1000
    assert len(it.synced(Family.V4, started=10_000, wall=BEGAN)) == MOST_TIMES
    assert it.pending_slices == 0
