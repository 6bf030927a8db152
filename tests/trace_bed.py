"""A small cluster for tests of `kubeproxy trace`: one Service with every way to it, and who asks."""

from kubeproxy.dataplane.locate import Locator
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice, Node, Service, ServiceCIDR, ServiceType, TrafficPolicy
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint_slice, service, world
from kubeproxy.trace.answer import Answer
from kubeproxy.trace.explainer import Condition, Explainer
from kubeproxy.trace.question import parse

VIP, EXTERNAL, BALANCER, NODE_IP = "10.96.0.10", "1.2.3.4", "5.6.7.8", "192.168.56.11"
POD, OUTSIDE = "10.244.0.2", "192.168.56.200"
SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))
NEAR, FAR = "10.244.0.11@node1", "10.244.1.11@node2"


def everywhere(**fields: object) -> Service:
    """Return a Service that has every way to it."""
    own = {"type": ServiceType.LOAD_BALANCER, "external_ips": (EXTERNAL,), "load_balancer_ips": (BALANCER,)}
    return service("web", VIP, node_port=30080, **(own | fields))


BOTH = endpoint_slice("web", "80", [NEAR, FAR])
FAR_ONLY = endpoint_slice("web", "80", [FAR])
LOCAL = everywhere(external_policy=TrafficPolicy.LOCAL)
RANGED = everywhere(source_ranges=("192.168.56.200/32",))


def known(*objects: Service | EndpointSlice) -> World:
    """Return a World of these, of the node and of the cluster IPs."""
    built = world(*objects)
    built.apply_node(Node(name="node1", internal_ips=(NODE_IP,), zone="a"))
    built.apply_service_cidrs({("", "kubernetes"): ServiceCIDR(name="kubernetes", cidrs=("10.96.0.0/16",))})
    return built


def explaining(
    built: World,
    mode: str,
    locator: Locator,
    *,
    settings: Settings = SETTINGS,
    flavour: str = "nft",
    condition: Condition | None = None,
) -> Explainer:
    """Return what answers for an agent in a mode, as it is on this node."""
    return Explainer(
        built,
        settings,
        mode=mode,
        flavour=flavour,
        locator=locator,
        families=tuple(Family),
        condition=lambda family: condition or Condition(),
        local_addresses=lambda family: (NODE_IP, "127.0.0.1") if family is Family.V4 else ("::1",),
    )


def rules(asked: Explainer, source: str, destination: str, port: int) -> dict[str, str]:
    """Return what carries out each step of an answer, by what the step is about."""
    answer = asked.answer(parse({"source": source, "destination": destination, "port": str(port)}))
    assert isinstance(answer, Answer)
    return {step.about: step.rule for step in answer.steps if step.rule}
