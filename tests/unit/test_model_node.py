import pytest

from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState, node_state
from kubeproxy.model.objects import Node, ServiceCIDR
from kubeproxy.model.settings import LocalMode, Settings
from kubeproxy.model.world import World

pytestmark = pytest.mark.unit

NODE = Node(
    name="n", internal_ips=("192.168.0.2", "2001:db8::2"), pod_cidrs=("10.1.0.0/24", "fd00:1::/64"), zone="a"
)
TWICE = [LocalTraffic(LocalKind.INTERFACE, "cni0")] * 2 + [LocalTraffic(LocalKind.PREFIX, "veth")] * 2


def state(family: Family = Family.V4, node: Node | None = NODE, **settings: object) -> NodeState:
    built = World()
    built.apply_node(node)
    return node_state(built, Settings(node_name="n", **settings), family)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "v4", "v6"),
    [
        ({}, LocalTraffic(), LocalTraffic()),
        ({"cluster_cidrs": ("fd00::/48", "10.0.0.0/8", "11.0.0.0/8")}, "10.0.0.0/8", "fd00::/48"),
        ({"cluster_cidrs": ("10.0.0.0/8",)}, "10.0.0.0/8", LocalTraffic()),
        ({"detect_local": LocalMode.NODE_CIDR, "cluster_cidrs": ("10.0.0.0/8",)}, "10.1.0.0/24", "fd00:1::/64"),
        (
            {"detect_local": LocalMode.BRIDGE_INTERFACE, "pod_bridge": "cni0"},
            *[LocalTraffic(LocalKind.INTERFACE, "cni0")] * 2,
        ),
        (
            {"detect_local": LocalMode.INTERFACE_NAME_PREFIX, "pod_interface_prefix": "veth"},
            *TWICE[2:],
        ),
    ],
)
def test_how_pods_are_told(settings: dict[str, object], v4: object, v6: object) -> None:
    for family, expected in ((Family.V4, v4), (Family.V6, v6)):
        wanted = LocalTraffic(LocalKind.SOURCE, expected) if isinstance(expected, str) else expected
        assert state(family, **settings).local == wanted


def test_the_nodes_address_is_what_was_bound_else_what_the_node_says_else_loopback() -> None:
    assert state(bind_address="10.9.9.9").node_ip == "10.9.9.9"
    assert state(Family.V6, bind_address="10.9.9.9").node_ip == "2001:db8::2"
    assert state(bind_address="0.0.0.0").node_ip == "192.168.0.2"
    assert (state(node=None).node_ip, state(Family.V6, None).node_ip) == ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("chosen", "v4", "v6", "loopback"),
    [
        ((), (), (), True),
        (("primary",), ("192.168.0.2/32",), ("2001:db8::2/128",), False),
        (("192.168.0.0/16",), ("192.168.0.0/16",), (), False),
        (("192.168.0.0/16", "0.0.0.0/0"), (), (), True),
        (("127.0.0.0/8", "2001:db8::/32"), ("127.0.0.0/8",), ("2001:db8::/32",), True),
    ],
)
def test_where_node_ports_answer(
    chosen: tuple[str, ...], v4: tuple[str, ...], v6: tuple[str, ...], loopback: bool
) -> None:
    four, six = state(nodeport_addresses=chosen), state(Family.V6, nodeport_addresses=chosen)
    assert (four.nodeport_cidrs, six.nodeport_cidrs) == (v4, v6)
    assert (four.nodeports_on_loopback, six.nodeports_on_loopback) == (loopback, False)
    assert not state(nodeport_addresses=chosen, localhost_nodeports=False).nodeports_on_loopback


def test_what_touches_everything() -> None:
    built = World()
    assert built.apply_node(NODE)
    assert not built.apply_node(
        Node(**{f: getattr(NODE, f) for f in NODE.__struct_fields__} | {"taint_keys": ("x",)})
    )
    cidrs = {("", "kubernetes"): ServiceCIDR(name="kubernetes", cidrs=("10.96.0.0/12", "fd00:10::/108"))}
    assert built.apply_service_cidrs(cidrs)
    assert not built.apply_service_cidrs(cidrs)
    assert node_state(built, Settings(node_name="n"), Family.V6).service_cidrs == ("fd00:10::/108",)
    assert built.apply_service_cidrs({("", "kubernetes"): None})


def test_a_service_cidr_that_holds_the_node_or_its_pods_cuts_nobody_off() -> None:
    """Even the way to the API server, which could tell better, would be closed."""
    built = World()
    built.apply_node(Node(name="n", internal_ips=("10.0.0.5", "fd00::5"), pod_cidrs=("10.244.1.0/24",)))
    wide = {
        "all": ("0.0.0.0/0", "::/0"),
        "good": ("10.96.0.0/16", "fd00:10::/108"),
        "pods": ("10.244.0.0/15",),
    }
    assert built.apply_service_cidrs({("", name): ServiceCIDR(name=name, cidrs=c) for name, c in wide.items()})
    found = [node_state(built, Settings(node_name="n"), family).service_cidrs for family in Family]
    assert found == [("10.96.0.0/16",), ("fd00:10::/108",)]
    assert str(built.rejections()[0]) == (
        "ServiceCIDR all: spec.cidrs 0.0.0.0/0 is not for Services alone: 10.0.0.5 is the node's or its pods'"
    )
    assert [each.name for each in built.rejections()] == ["all", "all", "pods"]
