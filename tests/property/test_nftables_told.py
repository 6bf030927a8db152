"""Own changes, others' edits, losses, looks and repairs in any order: in the end the table is ours.

A loss is announced once. What comes behind it is not told, own transactions neither, until it ends; and that the
listener says so is drawn too: where it does not, the numbers of what is told afterwards must show it.
"""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Service, ServiceType, TrafficPolicy
from tests.backend_node import BackendNode
from tests.large_services import treated_as_large
from tests.nftables_node import web, web_slice
from tests.nftables_told import ToldNode
from tests.property.nftables_bed import described
from tests.property.runs import PATIENCE, STEPS, runs
from tests.unit.test_nftables_repairs import cluster, edit

pytestmark = [pytest.mark.unit, PATIENCE]

ADDRESSES = {"web": "10.96.0.1", "shop": "10.96.0.2", "db": "10.96.0.3", "none": "10.96.0.4"}
RENAMED = ["nat-output", "filter-forward", "services", "nodeports", *(f"cluster-{n}" for n in range(1, 6))]


@st.composite
def own_change(draw: st.DrawFn) -> list[Service | EndpointSlice]:
    """Draw a Service as it is from now on, and perhaps its endpoints."""
    name = draw(st.sampled_from(sorted(ADDRESSES)))
    fields: dict[str, object] = {}
    if draw(st.booleans()):
        fields |= {"session_affinity": True, "affinity_seconds": draw(st.sampled_from([60, 10800]))}
    if name == "shop":
        fields |= {
            "node_port": 30080,
            "type": ServiceType.LOAD_BALANCER,
            "load_balancer_ips": ("203.0.113.1",),
            "external_policy": draw(st.sampled_from(TrafficPolicy)),
        }
    endpoints = draw(st.sets(st.tuples(st.integers(1, 2), st.integers(1, 8)), max_size=5))
    some = [f"10.244.{node}.{number}@node{node}" for node, number in sorted(endpoints)]
    return [web(name, ADDRESSES[name], **fields), *([web_slice(*some, name=name)] if some else [])]


def change(node: ToldNode, data: st.DataObject) -> None:
    """Let the API server tell of something."""
    if data.draw(st.integers(0, 3)) == 0:
        touched = node.world.apply_services({("default", data.draw(st.sampled_from(sorted(ADDRESSES)))): None})
    else:
        touched = set[Key]()
        for each in data.draw(own_change()):
            apply = node.world.apply_services if isinstance(each, Service) else node.world.apply_slices
            touched |= apply({(each.namespace, each.name): each})  # type: ignore[dict-item]
    try:
        BackendNode.partial(node, touched)
    except SyncFailed:
        write_all(node)


def write_all(node: ToldNode) -> None:
    """Do a full sync, while which nobody listens, and look afterwards."""
    node.full()
    node.is_deaf = False
    node.journal.opened()
    node.backend.observe()


def look(node: ToldNode) -> None:
    """Look, and have put right what that shows."""
    if node.backend.observe() and not node.is_put_right(whole=True):
        write_all(node)


def put_right(node: ToldNode) -> None:
    """Have undone what was told."""
    if node.journal.has_edits and not node.is_put_right() and not node.is_put_right(whole=True):
        write_all(node)


def meddle(node: ToldNode, data: st.DataObject) -> None:
    """Let somebody else change something."""
    held = node.table.contents
    if held is not None and data.draw(st.integers(0, 9)) == 0:
        name, other = data.draw(st.sampled_from(RENAMED)), data.draw(st.sampled_from(["renamed", *RENAMED]))
        if name in held.chains and other not in held.chains:
            node.rename(name, other)
        return
    with contextlib.suppress(Refused):
        if (step := data.draw(edit(node))) is not None:
            node.tamper(step)


def begin_loss(node: ToldNode) -> None:
    """Let the kernel say that it cannot tell of all, which is a reason to look."""
    node.is_deaf = True
    node.journal.lost()
    look(node)


def end_loss(node: ToldNode, data: st.DataObject) -> None:
    """Let the kernel tell of what comes from now on."""
    if node.is_deaf and data.draw(st.booleans()):
        node.journal.lost()
    node.is_deaf = False


@pytest.mark.parametrize("large", [0, 1])
@runs()
@given(st.data())
def test_whatever_others_do_beside_our_own_changes_and_losses_the_table_is_ours(
    large: int, data: st.DataObject
) -> None:
    with treated_as_large(large):
        node = ToldNode(*cluster())
        for _ in range(data.draw(st.integers(3, 2 * STEPS))):
            match data.draw(st.sampled_from(["meddle", "meddle", "change", "loss", "end", "look", "repair"])):
                case "meddle":
                    meddle(node, data)
                case "change":
                    change(node, data)
                case "loss":
                    begin_loss(node)
                case "end":
                    end_loss(node, data)
                case "look":
                    look(node)
                case "repair":
                    put_right(node)
        end_loss(node, data)
        node.table.kernel.disturbed()
        node.journal.ended(node.table.generation())
        for _ in range(4):
            put_right(node)
            look(node)
            if node.backend.needs_full:
                write_all(node)
        fresh = ToldNode()
        fresh.world = node.world
        fresh.full()
        assert described(node.table) == described(fresh.table)
