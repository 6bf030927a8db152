"""What tells packets apart whatever the Service: pods' traffic, and addresses that have node ports. Pure."""

from kubeproxy.model.addresses import without
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState


def pod_matches(local: LocalTraffic) -> tuple[str, str]:
    """Return the match for packets of this cluster's pods, and that for all others; "" when nobody can tell.

    An interface is matched where packets come in; what the node itself sends comes from none, so it is no pod's.
    """
    match local.kind:
        case LocalKind.NONE:
            return "", ""
        case LocalKind.SOURCE:
            test = f"-s {local.value} "
        case LocalKind.INTERFACE:
            test = f"-i {local.value} "
        case LocalKind.PREFIX:
            test = f"-i {local.value}+ "
    return test, f"! {test}"


def nodeport_matches(node: NodeState) -> tuple[str, ...]:
    """Return the matches for where node ports answer, beside "a local address"; a packet passes one of them."""
    loopback = node.family.loopback
    if not node.nodeport_cidrs:
        return ("",) if node.nodeports_on_loopback else (f"! -d {loopback} ",)
    if node.nodeports_on_loopback:
        return tuple(f"-d {cidr} " for cidr in node.nodeport_cidrs)
    return tuple(f"-d {each} " for cidr in node.nodeport_cidrs for each in without(cidr, loopback))
