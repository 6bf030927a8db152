from itertools import permutations

import msgspec
import pytest

from kubeproxy.app import place_of
from kubeproxy.model.addresses import Family
from kubeproxy.model.claims import Place
from kubeproxy.model.desired import desired
from kubeproxy.model.objects import EndpointSlice, Protocol, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import MOST_TOLD, MOST_TOLD_OF, World
from kubeproxy.testing.build import endpoint_slice, service, world

pytestmark = pytest.mark.unit

SETTINGS = Settings(node_name="node1")
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def addresses(built: World) -> dict[str, tuple[str, tuple[str, ...], tuple[str, ...], int]]:
    found = desired(built, SETTINGS, Family.V4)
    return {
        name.name: (state.cluster_ip, state.load_balancer_ips, state.external_ips, state.node_port)
        for name, state in found.items()
    }


def put(built: World, each: Service) -> set[str]:
    return {name for _, name in built.apply_services({(each.namespace, each.name): each})}


def test_the_older_of_two_services_has_the_cluster_ip() -> None:
    built = World()
    assert put(built, service("new", "10.96.0.1", created=NEW)) == {"new"}
    assert put(built, service("old", "10.96.0.1", created=OLD)) == {"old", "new"}
    assert {name: each[0] for name, each in addresses(built).items()} == {"old": "10.96.0.1", "new": ""}
    (rejection,) = built.rejections()
    assert str(rejection) == "Service default/new: spec.clusterIPs 10.96.0.1:80/TCP is the place of default/old"


def test_whoever_waits_inherits() -> None:
    built = world(
        *(service(name, "10.96.0.1", created=when) for name, when in [("a", OLD), ("b", NEW), ("c", NEW)])
    )
    assert built.apply_services({("default", "a"): None}) == {("default", name) for name in "ab"}
    assert {name: each[0] for name, each in addresses(built).items()} == {"b": "10.96.0.1", "c": ""}
    built.apply_services({("default", "b"): None})
    assert addresses(built)["c"][0] == "10.96.0.1"
    assert built.rejections() == ()


def test_an_external_ip_never_takes_a_cluster_ip_however_old() -> None:
    thief = service("thief", "10.96.0.9", external_ips=("10.96.0.1", "1.2.3.4"), created=OLD)
    built = world(thief, service("victim", "10.96.0.1", created=NEW))
    assert addresses(built)["thief"][2] == ("1.2.3.4",)
    assert addresses(built)["victim"][0] == "10.96.0.1"
    assert [each.field for each in built.rejections()] == ["spec.externalIPs"]


def test_a_load_balancers_address_beats_an_external_ip() -> None:
    built = world(
        service("ext", "10.96.0.1", external_ips=("1.2.3.4",), created=OLD),
        service("lb", "10.96.0.2", load_balancer_ips=("1.2.3.4",), created=NEW),
    )
    assert (addresses(built)["ext"][2], addresses(built)["lb"][1]) == ((), ("1.2.3.4",))


def test_an_address_that_a_service_does_not_serve_is_left_to_who_does() -> None:
    shy = service("shy", "10.96.0.1", external_ips=("2001:db8::4",), created=OLD)
    bare = service("bare", "", node_port=30080, external_ips=("1.2.3.4",), created=OLD)
    web = service("web", "10.96.0.3,fd00::3", node_port=30080, created=NEW)
    web = msgspec.structs.replace(web, external_ips=("2001:db8::4", "1.2.3.4"))
    built = world(shy, bare, web)
    assert built.rejections() == ()
    assert addresses(built)["web"] == ("10.96.0.3", (), ("1.2.3.4",), 30080)
    assert {n.name: s.external_ips for n, s in desired(built, SETTINGS, Family.V6).items()} == {
        "web": ("2001:db8::4",)
    }


def test_a_place_that_a_thousand_want_costs_each_of_them_little() -> None:
    built = World()
    rivals = [
        service(f"s{i}", f"10.96.{i >> 8}.{i & 255}", external_ips=("1.2.3.4",), created=f"{9999 - i}")
        for i in range(1000)
    ]
    touched = [put(built, each) for each in rivals]  # each is older than all before
    assert max(map(len, touched)) == 2
    assert len(built.rejections()) == 999


def test_node_ports_are_claimed_by_protocol() -> None:
    built = world(
        service("a", "10.96.0.1", node_port=30080, created=OLD),
        service("b", "10.96.0.2", node_port=30080, created=NEW),
        service("c", "10.96.0.3", "80/UDP", node_port=30080, created=NEW),
    )
    assert [each[3] for each in addresses(built).values()] == [30080, 0, 30080]


def test_one_address_with_different_ports_is_shared_in_peace() -> None:
    built = world(
        service("a", "10.96.0.1", "80", load_balancer_ips=("1.2.3.4",)),
        service("b", "10.96.0.2", "81", load_balancer_ips=("1.2.3.4",)),
    )
    assert built.rejections() == ()


def test_two_ports_of_one_service_with_one_number() -> None:
    built = world(service("a", "10.96.0.1", "one=80,two=80"))
    found = desired(built, SETTINGS, Family.V4)
    assert [state.cluster_ip for state in found.values()] == ["10.96.0.1", ""]


def test_the_order_of_arrival_and_of_leaving_does_not_matter() -> None:
    rivals = [service(f"s{i}", "10.96.0.1", created=NEW, external_ips=("1.2.3.4",)) for i in range(4)]
    outcomes = set()
    for order in permutations(rivals):
        built = World()
        for each in order:
            put(built, each)
        first = order[0]
        built.apply_services({(first.namespace, first.name): None})
        put(built, first)
        outcomes.add(repr(sorted(addresses(built).items())) + repr(built.rejections()))
    assert len(outcomes) == 1


def test_a_service_that_is_no_longer_ours_gives_its_places_up() -> None:
    mine = service("a", "10.96.0.1", created=OLD)
    built = world(mine, service("b", "10.96.0.1", created=NEW))
    assert put(built, msgspec.structs.replace(mine, proxy_name="other")) == {"a", "b"}
    assert addresses(built)["b"][0] == "10.96.0.1"


def test_an_endpoint_at_its_own_services_address_is_left_out_and_told() -> None:
    piece: EndpointSlice = endpoint_slice("web", "80", ["10.96.0.1", "10.244.0.2"])
    built = world(service("web", "10.96.0.1"), piece)
    (state,) = desired(built, SETTINGS, Family.V4).values()
    assert [target.address for target in state.cluster] == ["10.244.0.2"]
    assert [each.value for each in built.rejections()] == ["10.96.0.1"]
    built.apply_slices({(piece.namespace, piece.name): None})
    assert built.rejections() == ()


def crowded(name: str, address: str, ports: int, **fields: object) -> Service:
    every = ",".join(f"p{i}={i + 1}" for i in range(ports))
    return service(name, address, every, **fields)


def test_addresses_times_ports_are_limited() -> None:
    many = tuple(f"5.0.{i >> 8}.{i & 255}" for i in range(500))
    built = world(crowded("a", "10.96.0.1", 100, external_ips=many, load_balancer_ips=("1.2.3.4",)))
    served = built.services["default", "a"]
    assert (len(served.ports), len(served.load_balancer_ips), len(served.external_ips)) == (100, 1, 99)
    assert [(each.field, each.value) for each in built.rejections()] == [("spec.externalIPs", "list of 500")]
    (untouched,) = world(service("a", "10.96.0.1", external_ips=many)).services.values()
    assert untouched.external_ips == many


def test_source_ranges_times_the_places_that_they_guard_are_limited() -> None:
    ranges = tuple(f"5.{i >> 8}.{i & 255}.0/24" for i in range(20_000))
    fields = {"load_balancer_ips": ("1.2.3.4",), "source_ranges": (*ranges, "fd00::/8")}
    built = world(crowded("a", "10.96.0.1", 1000, **fields))
    # Not one of a family may be the last to go: without any, everybody would be admitted.
    assert built.services["default", "a"].source_ranges == (*ranges[:100], "fd00::/8")
    told = [(each.field, each.value) for each in built.rejections()]
    assert told == [("spec.loadBalancerSourceRanges", "list of 20,000")]
    (untouched,) = world(crowded("a", "10.96.0.1", 4, **fields)).services.values()
    assert untouched.source_ranges == fields["source_ranges"]


def test_a_million_lost_places_are_told_of_in_few_words() -> None:
    many = tuple(f"5.0.0.{i}" for i in range(100))
    owner = crowded("a", "10.96.0.1", 100, external_ips=many, created=OLD)
    built = world(
        owner, *(crowded(f"b{i}", f"10.96.1.{i}", 100, external_ips=many, created=NEW) for i in range(3))
    )
    told = [str(each) for each in built.rejections()]
    assert len(told) == 3 * (MOST_TOLD_OF + 1)
    assert told[MOST_TOLD_OF] == f"Service default/b0: and {10_000 - MOST_TOLD_OF} is more of the kind"


def test_no_more_than_a_thousand_rejections_are_listed() -> None:
    rivals = [service(f"s{i:04}", "10.96.0.1", created=NEW) for i in range(MOST_TOLD + 11)]
    told = world(*rivals).rejections()
    assert len(told) == MOST_TOLD + 1
    assert str(told[-1]) == "and 10 more objects of which parts are left out"


def test_no_external_ip_takes_the_api_servers_place_but_its_own_cluster_ip_does() -> None:
    built = World()
    for address in ("192.168.56.10", "10.96.0.1"):
        built.claims.reserve(Place(address, Protocol.TCP, 443), "the API server")
    put(built, service("evil", "10.96.0.9", "443", external_ips=("192.168.56.10", "1.2.3.4"), created=OLD))
    put(built, service("kubernetes", "10.96.0.1", "443", created=NEW))
    assert [each[2] for each in addresses(built).values()] == [("1.2.3.4",), ()]
    assert addresses(built)["kubernetes"][0] == "10.96.0.1"
    (rejection,) = built.rejections()
    assert str(rejection).endswith("spec.externalIPs 192.168.56.10:443/TCP is the place of the API server")
    for name in ("kubernetes", "evil"):
        built.apply_services({("default", name): None})
    assert built.rejections() == ()


@pytest.mark.parametrize(
    ("server", "place"),
    [
        ("https://192.168.56.10:6443", ("192.168.56.10", 6443)),
        ("https://[fd00::1]/prefix", ("fd00::1", 443)),
        ("http://10.0.0.1", ("10.0.0.1", 80)),
        ("https://api.example.com:6443", None),
    ],
)
def test_where_an_api_server_is(server: str, place: tuple[str, int] | None) -> None:
    found = place_of(server)
    assert (found and (found.address, found.port)) == place
