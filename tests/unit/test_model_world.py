import msgspec
import pytest

from kubeproxy.model.admission import forbidden
from kubeproxy.model.claims import Place
from kubeproxy.model.objects import Protocol
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint_slice, service, world

pytestmark = pytest.mark.unit

WEB = ("default", "web")


def test_applying_an_object_again_touches_nothing() -> None:
    web, piece = service("web", "10.96.0.1"), endpoint_slice("web", "80", ["10.244.0.2"])
    built = World()
    assert built.apply_services({WEB: web}) == {WEB}
    assert built.apply_services({WEB: web}) == set()
    assert built.apply_slices({("default", piece.name): piece}) == {WEB}
    assert built.apply_slices({("default", piece.name): piece}) == set()


def test_deleting_what_is_not_there_touches_nothing() -> None:
    built = World()
    assert built.apply_services({WEB: None}) == set()
    assert built.apply_slices({WEB: None}) == set()


def test_slices_are_found_by_service_and_leave_no_trace() -> None:
    one, two = (endpoint_slice("web", "80", [ip], suffix=ip[-1]) for ip in ("10.244.0.2", "10.244.0.3"))
    built = world(one, two)
    assert {each.name for each in built.slices_of(WEB)} == {"web-2", "web-3"}
    assert built.apply_slices({("default", one.name): None, ("default", two.name): None}) == {WEB}
    assert not built.slices_of(WEB)


def test_a_slice_that_changes_its_service_touches_both() -> None:
    piece = endpoint_slice("web", "80", ["10.244.0.2"])
    built = world(piece)
    moved = msgspec.structs.replace(piece, service="api")
    assert built.apply_slices({("default", piece.name): moved}) == {WEB, ("default", "api")}
    assert not built.slices_of(WEB)


def test_headless_and_external_name_services_stay_for_dns() -> None:
    built = world(service("db", "", headless=True), service("ext", "", external_name="example.org"))
    assert set(built.services) == {("default", "db"), ("default", "ext")}


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.1.2.3", "no machine"),
        ("255.255.255.255", "broadcast"),
        ("255.255.255.25", ""),
        ("192.168.0.2", ""),
        ("8.8.8.8", ""),
    ],
)
def test_addresses_that_nobody_may_have(address: str, reason: str) -> None:
    assert reason in forbidden(address)
    assert bool(forbidden(address)) is bool(reason)


def test_a_loopback_endpoint_is_left_out_and_reported_until_it_goes() -> None:
    piece = endpoint_slice("web", "80", ["127.0.0.1", "10.244.0.2"])
    built = world(piece)
    (kept,) = built.slices_of(WEB)
    assert [each.address for each in kept.endpoints] == ["10.244.0.2"]
    (rejection,) = built.rejections()
    assert str(rejection) == (
        "EndpointSlice default/web-abcde: endpoints.addresses 127.0.0.1 is a loopback address"
    )
    good = endpoint_slice("web", "80", ["10.244.0.2"])
    built.apply_slices({("default", good.name): good})
    assert built.rejections() == ()


def test_a_forbidden_virtual_address_is_left_out_and_reported_until_the_service_goes() -> None:
    built = world(service("web", "10.96.0.1", external_ips=("127.0.0.1", "1.2.3.4")))
    assert built.services[WEB].external_ips == ("1.2.3.4",)
    assert [each.field for each in built.rejections()] == ["spec.externalIPs"]
    built.apply_services({WEB: None})
    assert built.rejections() == ()


def test_what_is_kept_clear_is_nobodys_but_a_load_balancers_that_serves_it() -> None:
    api = Place("192.0.2.1", Protocol.TCP, 6443)
    built = World()
    built.keep_clear(api, "the API server's")
    port_80 = service("web", "10.96.0.1", "80", external_ips=("192.0.2.1",), load_balancer_ips=("192.0.2.1",))
    built.apply_services({WEB: port_80})
    assert (built.services[WEB].external_ips, built.services[WEB].load_balancer_ips) == ((), ())
    assert [str(each) for each in built.rejections()] == [
        "Service default/web: spec.externalIPs 192.0.2.1 is the API server's",
        "Service default/web: status.loadBalancer.ingress 192.0.2.1 is the API server's",
    ]
    port_6443 = msgspec.structs.replace(port_80, ports=service("web", "10.96.0.1", "6443").ports)
    built.apply_services({WEB: port_6443})
    assert built.services[WEB].external_ips == ()
    assert built.services[WEB].load_balancer_ips == ("192.0.2.1",)


def test_a_part_shares_values_and_does_not_follow_the_whole() -> None:
    web, api = service("web", "10.96.0.1"), service("api", "10.96.0.2")
    built = world(web, api, endpoint_slice("web", "80", ["10.244.0.2"]))
    part = built.part({WEB, ("default", "gone")})
    built.apply_services({WEB: None})
    assert part.services == {WEB: web}
    assert len(part.slices_of(WEB)) == 1
    assert set(built.part(None).services) == {("default", "api")}


@pytest.mark.parametrize(("kind", "stranger"), [("IPv4", "fd00::1"), ("IPv6", "10.244.0.3")])
def test_an_endpoint_of_another_family_than_its_slice_is_left_out(kind: str, stranger: str) -> None:
    own = "10.244.0.2" if kind == "IPv4" else "fd00::2"
    piece = endpoint_slice("web", "80", [own, stranger])
    built = world(piece)
    assert [each.address for each in built.slices_of(WEB)[0].endpoints] == [own]
    assert [str(each) for each in built.rejections()] == [
        f"EndpointSlice default/{piece.name}: endpoints.addresses {stranger} is no {kind} address"
    ]
