"""What in a configuration does not fit its node: upstream's warnings, and the two cases that it refuses.

Nothing is known of the cluster's Services yet when this is asked, so it goes by the family of the node's own first
address. Source: upstream's checkBadConfig and checkBadIPConfig (cmd/kube-proxy/app).
"""

from collections.abc import Iterator, Sequence

from kubeproxy.config.types import Configuration
from kubeproxy.model.addresses import Family, canonical_cidr, canonical_ip, family_of
from kubeproxy.model.objects import Record
from kubeproxy.model.settings import PRIMARY, LocalMode

UNSPECIFIED = ("0.0.0.0", "::")


class Mismatch(Record, frozen=True):
    """One thing that does not fit; a fatal one cannot be served at all."""

    text: str
    fatal: bool = False


def mismatches(
    configuration: Configuration, node_addresses: Sequence[str], *, dual_stack: bool, pod_cidrs: Sequence[str] = ()
) -> list[Mismatch]:
    """Compare a resolved configuration with a node.

    ``node_addresses`` and ``pod_cidrs`` are what the Node object says, its best address first; ``dual_stack`` is
    whether both families are served.
    """
    primary = primary_family(configuration, node_addresses)
    return [
        *_node_address(configuration, node_addresses),
        *_node_ports(configuration, primary, pod_cidrs),
        *_nobody_local(configuration, primary, pod_cidrs),
        *_families(configuration, primary, dual_stack, pod_cidrs),
    ]


def primary_family(configuration: Configuration, node_addresses: Sequence[str]) -> Family:
    """Return the family of bindAddress when it names one, else of the node's first address, else IPv4."""
    if bound := _bound(configuration):
        return family_of(bound)
    return next(map(family_of, node_addresses), Family.V4)


def _bound(c: Configuration) -> str:
    bound = canonical_ip(c.bind_address) or ""
    return "" if bound in UNSPECIFIED else bound


def _node_address(c: Configuration, node_addresses: Sequence[str]) -> Iterator[Mismatch]:
    if not _bound(c) and not node_addresses:
        yield Mismatch(
            "can't determine this node's IP, assuming loopback; if this is incorrect, "
            "please set the --bind-address flag"
        )


def _node_ports(c: Configuration, primary: Family, pod_cidrs: Sequence[str]) -> Iterator[Mismatch]:
    chosen = c.node_port_addresses
    if not chosen:
        yield Mismatch(
            "nodePortAddresses is unset; NodePort connections will be accepted on all local IPs. "
            f"Consider using `--nodeport-addresses {PRIMARY}`"
        )
        return
    if chosen == (PRIMARY,):
        return
    other = _other(primary).label
    own = _of(chosen, primary)
    dual = any(_is_dual(each) for each in (c.cluster_cidrs, chosen, c.ipvs.exclude_cidrs, pod_cidrs))
    accepted = "NodePort connections will be accepted on all local"
    if dual and len(own) == len(chosen):
        yield Mismatch(
            f"cluster appears to be dual-stack but nodePortAddresses contains only {primary.label} addresses; "
            f"{accepted} {other} IPs"
        )
    elif not own:
        yield Mismatch(
            f"cluster appears to be {primary.label}-primary but nodePortAddresses contains only {other} "
            f"addresses; {accepted} {primary.label} IPs"
        )


def _nobody_local(c: Configuration, primary: Family, pod_cidrs: Sequence[str]) -> Iterator[Mismatch]:
    what = "so no traffic is taken for a pod's: none is masqueraded for coming from elsewhere"
    if c.detect_local_mode == LocalMode.CLUSTER_CIDR and not c.cluster_cidrs:
        yield Mismatch(f"detectLocalMode is ClusterCIDR and no clusterCIDR is set, {what}")
    if c.detect_local_mode == LocalMode.NODE_CIDR and not _of(pod_cidrs, primary):
        yield Mismatch(
            f"detectLocalMode is NodeCIDR and the Node has no {primary.label} podCIDR yet, {what} until then"
        )


def _families(c: Configuration, primary: Family, dual_stack: bool, pod_cidrs: Sequence[str]) -> Iterator[Mismatch]:
    bad = _other(primary)
    cluster = f"cluster is {primary.label}-{'primary' if dual_stack else 'only'} but"
    lists = [
        ("clusterCIDRs", c.cluster_cidrs, c.detect_local_mode == LocalMode.CLUSTER_CIDR and not dual_stack),
        ("node.spec.podCIDRs", pod_cidrs, c.detect_local_mode == LocalMode.NODE_CIDR),
    ]
    addresses = {}
    # These only matter where the other family is not there at all.
    if not dual_stack:
        lists.append(("ipvs.excludeCIDRs", c.ipvs.exclude_cidrs, False))
        addresses = {"healthzBindAddress": c.healthz_bind_address, "metricsBindAddress": c.metrics_bind_address}
    for name, cidrs, fatal in lists:
        if cidrs and len(_of(cidrs, bad)) == len(cidrs):
            yield Mismatch(f"{cluster} {name} contains only {bad.label} addresses", fatal)
    for name, text in addresses.items():
        host = canonical_ip(text.rpartition(":")[0].strip("[]")) or ""
        if host not in ("", *UNSPECIFIED) and family_of(host) is bad:
            yield Mismatch(f"{cluster} {name} is {bad.label}")


def _of(cidrs: Sequence[str], family: Family) -> list[str]:
    return [cidr for cidr in map(canonical_cidr, cidrs) if cidr is not None and family_of(cidr) is family]


def _is_dual(cidrs: Sequence[str]) -> bool:
    return all(_of(cidrs, family) for family in Family)


def _other(family: Family) -> Family:
    return Family.V6 if family is Family.V4 else Family.V4
