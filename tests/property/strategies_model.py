"""Hypothesis strategies for what an API server may hold: Services, EndpointSlices, this node, ServiceCIDRs.

Addresses are those of the packet lab (`tests/scenarios/addresses.py`), so that whatever is drawn here can be
asked by packets too. Lists go from simple to strange: hypothesis shrinks towards the front. What is mostly
refused by the API server's validation (an address that another Service has, two ports of one identity) is drawn
seldom.

Strategies are made once, here or by functions with a cache: what hypothesis finds out about each new one (whether
it is empty, what it validates) takes longer than to draw from it.
"""

from functools import cache, lru_cache
from itertools import product
from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import (
    Conditions,
    Endpoint,
    EndpointSlice,
    Node,
    Protocol,
    Service,
    ServiceCIDR,
    ServicePort,
    ServiceType,
    SlicePort,
    TrafficPolicy,
)
from kubeproxy.model.settings import PRIMARY, LocalMode, Settings
from tests.scenarios.addresses import (
    ALT,
    BRIDGE,
    HOST_PORT,
    HOSTS,
    NODE,
    NODE_POD_NETWORK,
    POD_NETWORK,
    POD_PREFIX,
    PORTS,
    SECOND_SERVICE_NETWORK,
    SERVICE_NETWORK,
    V4,
    V6,
    virtual,
)

T = TypeVar("T")

NODE_NAME, OTHER_NODE = "node1", "node2"
KEYS: list[Key] = [("ns", f"s{i}") for i in range(5)] + [("other", "s0")]
SUFFIXES = ("a", "b", "c")
SERVED = [
    ("http", Protocol.TCP, 80),
    ("dns", Protocol.UDP, 53),
    ("dns", Protocol.TCP, 53),
    ("x", Protocol.SCTP, 80),
    ("", Protocol.TCP, 443),
    ("clash", Protocol.TCP, 80),
    ("", Protocol.TCP, 30001),
]
"""Ports of Services: one number by three protocols, one protocol twice, one that is somebody's node port."""
FIRST_NODE_PORT, FIRST_HEALTH_PORT = 30000, 32000
ZONES = ("a", "b", "")
TYPES = [ServiceType.CLUSTER_IP, ServiceType.LOAD_BALANCER, ServiceType.NODE_PORT] * 3 + [
    ServiceType.EXTERNAL_NAME
]
AGES = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "")


@lru_cache(maxsize=None, typed=True)  # 0 is not False
def among(*values: T) -> st.SearchStrategy[T]:
    """Draw one of these."""
    return st.sampled_from(values)


def seldom(usual: st.SearchStrategy[T], strange: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Draw the strange one time in eight."""
    # Of integers hypothesis likes the ends best; of a list's entries it likes none.
    return among(*range(8)).flatmap(lambda n: strange if n == 7 else usual)


def own_address(way: str, index: int, family: Family, number: int = 0) -> str:
    """Return an address that the Service ``index`` has for itself."""
    return virtual(way, family, index + 1, number + 1)


def _some_addresses(way: str, index: int) -> list[tuple[str, ...]]:
    v4, v6 = (own_address(way, index, family) for family in (V4, V6))
    return [(), (v4, v6), (v4,), (v6,), (v4, own_address(way, index, V4, 1), v6)]


@cache
def _anybodys(way: str) -> st.SearchStrategy[str]:
    return st.sampled_from([own_address(way, i, family) for i, family in product(range(len(KEYS)), Family)])


@cache
def _cluster_ips(index: int) -> st.SearchStrategy[tuple[str, ...]]:
    v4, v6 = (own_address("cluster", index, family) for family in (V4, V6))
    moved = own_address("cluster", index, V4, 1)
    usual: st.SearchStrategy[tuple[str, ...]] = st.sampled_from([(v4, v6), (v6, v4), (v4,), (v6,), (moved, v6)])
    return seldom(usual, st.one_of(st.just(()), st.tuples(_anybodys("cluster"))))


@cache
def _external_ips(index: int) -> st.SearchStrategy[tuple[str, ...]]:
    strange = st.sampled_from(
        [
            (NODE.v4, NODE.v6),
            (own_address("balancer", index, V4),),
            (own_address("cluster", index, V4),),
            (ALT.v4,),
        ]
    )
    others = st.tuples(st.one_of(_anybodys("external"), _anybodys("cluster")))
    return seldom(st.sampled_from(_some_addresses("external", index)), st.one_of(strange, others))


@cache
def _balancer_ips(index: int) -> st.SearchStrategy[tuple[str, ...]]:
    strange = st.sampled_from([(NODE.v4, NODE.v6), (own_address("external", index, V4),)])
    others = st.tuples(st.one_of(_anybodys("balancer"), _anybodys("external")))
    return seldom(st.sampled_from(_some_addresses("balancer", index)), st.one_of(strange, others))


@cache
def _ranges(index: int) -> st.SearchStrategy[tuple[str, ...]]:
    outside = HOSTS["outside"]
    return st.sampled_from(
        [
            (),
            (f"{outside.v4}/32", f"{outside.v6}/128"),
            (POD_NETWORK[V4], POD_NETWORK[V6]),
            (f"{NODE.v4}/32", f"{NODE.v6}/128"),
            (f"{outside.v4}/32",),
            ("192.168.56.0/24", "0.0.0.0/0"),
            ("10.0.0.0/8", f"{own_address('balancer', index, V4)}/32", "2001:db8:56::/64"),
        ]
    )


_SEVERAL_SERVED = st.lists(st.sampled_from(range(len(SERVED))), unique=True, min_size=2, max_size=4)


@cache
def _node_ports(own: int) -> st.SearchStrategy[int]:
    return seldom(among(0, own), among(FIRST_NODE_PORT + 1, 80))


@cache
@st.composite
def _service_ports(draw: st.DrawFn, index: int) -> tuple[ServicePort, ...]:
    found = []
    for place in draw(_SEVERAL_SERVED):
        name, protocol, number = SERVED[place]
        own = FIRST_NODE_PORT + index * len(SERVED) + place
        found.append(ServicePort(name=name, protocol=protocol, port=number, node_port=draw(_node_ports(own))))
    return tuple(found)


@cache
@st.composite
def services(draw: st.DrawFn, keys: st.SearchStrategy[Key] | None = None) -> Service:
    """Draw a Service of any kind, with fields that its type does not ask for too."""
    namespace, name = draw(keys if keys is not None else among(*KEYS))
    index = KEYS.index((namespace, name))
    policies = among(*TrafficPolicy)
    kind = draw(among(*TYPES))
    odd = draw(among(*range(16)))
    return Service(
        namespace=namespace,
        name=name,
        type=kind,
        headless=odd == 14,
        proxy_name="somebody" if odd == 15 else "",
        cluster_ips=() if odd == 14 else draw(_cluster_ips(index)),
        ports=draw(_service_ports(index)),
        external_ips=draw(_external_ips(index)),
        load_balancer_ips=draw(_balancer_ips(index)),
        source_ranges=draw(_ranges(index)),
        session_affinity=draw(among(False, False, True)),
        affinity_seconds=draw(among(10800, 60)),
        internal_policy=draw(policies),
        external_policy=draw(policies),
        health_check_node_port=draw(among(0, FIRST_HEALTH_PORT + index)),
        external_name="example.org" if kind is ServiceType.EXTERNAL_NAME else "",
        created=draw(among(*AGES)),
    )


ANY_CONDITIONS = [
    Conditions(ready=ready, serving=serving, terminating=terminating)
    for terminating, serving, ready in product((False, True), (True, False), (True, False))
]
"""All eight, those that a cluster really has first."""
HINTS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("a",), ()),
    (("b",), ()),
    (("a", "b"), ()),
    ((), (NODE_NAME,)),
    ((), (OTHER_NODE,)),
    (("b",), (NODE_NAME, OTHER_NODE)),
]
"""Zones and nodes that an endpoint is meant for."""
CROWD = 120
_CROWDED = {V4: "10.244.7.{}", V6: "fd00:10:244:7::{:x}"}
LOCAL, REMOTE = ("be1", "be2"), ("be3", "be4")


@cache
@st.composite
def endpoints(draw: st.DrawFn, family: Family, hosts: tuple[str, ...], hinted: bool) -> Endpoint:
    """Draw an endpoint at one of the lab's hosts; its node's name is true, or not told."""
    host = draw(among(*hosts))
    truth = OTHER_NODE if host in REMOTE else NODE_NAME
    zones, nodes = draw(among(*HINTS)) if hinted else ((), ())
    return Endpoint(
        address=HOSTS[host].address(family),
        conditions=draw(among(*[ANY_CONDITIONS[0]] * 6, *ANY_CONDITIONS)),
        node_name=draw(among(*[truth] * 5, "")),
        hint_zones=zones,
        hint_nodes=nodes,
    )


@cache
def _several(
    family: Family, hosts: tuple[str, ...], hinted: bool, least: int
) -> st.SearchStrategy[list[Endpoint]]:
    each = endpoints(family, hosts, hinted)
    return st.lists(each, min_size=least, max_size=4, unique_by=lambda each: each.address)


_PLACES = st.tuples(among(*KEYS), among(*SUFFIXES))


@cache
@st.composite
def slices(
    draw: st.DrawFn, places: st.SearchStrategy[tuple[Key, str]] | None = None, *, crowds: bool = False
) -> EndpointSlice:
    """Draw a slice of one of the Services (which need not exist), of either family or of none.

    With ``crowds`` some have more endpoints than one chain takes, at addresses that the lab does not have.
    """
    (namespace, name), suffix = draw(places if places is not None else _PLACES)
    family = V6 if suffix == "c" else V4
    odd = draw(among(*range(32)))
    own = draw(among(*range(8))) == 7
    hinted = draw(among(False, False, True))
    hosts = ("node",) if own else LOCAL + REMOTE
    some = _several(family, hosts, hinted, draw(among(2, 1, 0)) if not own else 0)
    shift = draw(among(0, 0, 1))
    crowd = range(CROWD if crowds and draw(among(*range(16))) == 15 else 0)
    ports = tuple(
        SlicePort(name=each, protocol=protocol, port=HOST_PORT if own else _target(number, shift))
        for each, protocol, number in SERVED
        if not (own and protocol is Protocol.SCTP)
    )
    return EndpointSlice(
        namespace=namespace,
        name=f"{name}-{suffix}",
        service="" if odd == 31 else name,
        address_type="FQDN" if odd == 30 else family.label,
        headless=odd == 29,
        ports=_distinct(ports)[draw(among(0, 0, 0, 1, 2)) :],
        endpoints=(*draw(some), *(Endpoint(address=_CROWDED[family].format(i + 1)) for i in crowd)),
    )


def _target(number: int, shift: int) -> int:
    return PORTS[(PORTS.index(number) + shift) % len(PORTS)] if number in PORTS else PORTS[shift]


def _distinct(ports: tuple[SlicePort, ...]) -> tuple[SlicePort, ...]:
    return tuple({(port.name, port.protocol): port for port in reversed(ports)}.values())[::-1]


NODES: st.SearchStrategy[Node | None] = st.one_of(
    st.builds(
        Node,
        name=st.just(NODE_NAME),
        internal_ips=st.sampled_from([(NODE.v4, NODE.v6), (NODE.v4,), (ALT.v4, NODE.v6), ()]),
        external_ips=st.sampled_from([(), (ALT.v4, ALT.v6)]),
        pod_cidrs=st.sampled_from([(NODE_POD_NETWORK[V4], NODE_POD_NETWORK[V6]), (NODE_POD_NETWORK[V4],), ()]),
        zone=st.sampled_from(ZONES),
    ),
    st.none(),
)

CIDR_NAMES = ("kubernetes", "more")
SERVICE_CIDRS = st.builds(
    ServiceCIDR,
    name=st.sampled_from(CIDR_NAMES),
    cidrs=st.sampled_from(
        [
            (SERVICE_NETWORK[V4], SERVICE_NETWORK[V6]),
            (SECOND_SERVICE_NETWORK[V4], SECOND_SERVICE_NETWORK[V6]),
            (SERVICE_NETWORK[V4],),
            (),
        ]
    ),
)

_USUAL = Settings(node_name=NODE_NAME, cluster_cidrs=(POD_NETWORK[V4], POD_NETWORK[V6]))
SETTINGS = st.sampled_from(
    [
        _USUAL,
        *(
            msgspec.structs.replace(_USUAL, **fields)
            for fields in (
                {"cluster_cidrs": ()},
                {"masquerade_all": True},
                {"masquerade_all": True, "cluster_cidrs": (), "masquerade_bit": 0},
                {"detect_local": LocalMode.NODE_CIDR},
                {"detect_local": LocalMode.BRIDGE_INTERFACE, "pod_bridge": BRIDGE},
                {"detect_local": LocalMode.INTERFACE_NAME_PREFIX, "pod_interface_prefix": POD_PREFIX},
                {"nodeport_addresses": (PRIMARY,)},
                {"nodeport_addresses": ("192.168.57.0/24", "2001:db8:57::/64")},
                {"nodeport_addresses": ("192.168.56.0/24", "127.0.0.0/8"), "masquerade_bit": 31},
                {"localhost_nodeports": False},
                {"allow_external_ips": False},
            )
        ),
    ]
)
