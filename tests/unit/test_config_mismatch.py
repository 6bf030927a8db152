"""What does not fit the node: upstream's warnings and the cases it refuses."""

from typing import Any

import pytest

from kubeproxy.config.mismatch import mismatches, primary_family
from kubeproxy.model.addresses import Family
from kubeproxy.options import parse

pytestmark = pytest.mark.unit

V4, V6 = Family.V4, Family.V6
FITS = ("--cluster-cidr=10.244.0.0/16", "--nodeport-addresses=primary")
OTHERS = (*FITS, "--ipvs-exclude-cidrs=fd00::/8", "--healthz-bind-address=fd00::1", "--metrics-bind-address=::1")
ALL_IPV6 = "NodePort connections will be accepted on all local IPv6 IPs"


@pytest.mark.parametrize(
    ("flags", "node", "found"),
    [
        (FITS, {}, []),
        (("--cluster-cidr=10.244.0.0/16", "--nodeport-addresses=192.0.2.0/24"), {}, []),
        (
            ("--cluster-cidr=fd00::/56,10.244.0.0/16", "--nodeport-addresses=::/0,0.0.0.0/0"),
            {"addresses": ("fd00::1",)},
            [],
        ),
        (
            ("--cluster-cidr=10.244.0.0/16",),
            {},
            ["nodePortAddresses is unset; NodePort connections will be accepted on all local IPs"],
        ),
        (
            ("--cluster-cidr=10.244.0.0/16,fd00::/56", "--nodeport-addresses=192.0.2.0/24"),
            {},
            [f"cluster appears to be dual-stack but nodePortAddresses contains only IPv4 addresses; {ALL_IPV6}"],
        ),
        (
            ("--cluster-cidr=fd00::/56", "--nodeport-addresses=192.0.2.0/24"),
            {"addresses": ("fd00::1",)},
            [f"cluster appears to be IPv6-primary but nodePortAddresses contains only IPv4 addresses; {ALL_IPV6}"],
        ),
        (
            ("--cluster-cidr=fd00::/56", "--nodeport-addresses=primary"),
            {},
            ["cluster is IPv4-primary but clusterCIDRs contains only IPv6 addresses"],
        ),
        (
            ("--cluster-cidr=fd00::/56", "--nodeport-addresses=primary"),
            {"dual_stack": False},
            ["fatal: cluster is IPv4-only but clusterCIDRs contains only IPv6 addresses"],
        ),
        (
            ("--cluster-cidr=fd00::/56", "--nodeport-addresses=primary", "--detect-local-mode=NodeCIDR"),
            {"dual_stack": False, "pod_cidrs": ("10.244.1.0/24",)},
            ["cluster is IPv4-only but clusterCIDRs contains only IPv6 addresses"],
        ),
        (
            (*FITS, "--detect-local-mode=NodeCIDR"),
            {"pod_cidrs": ("fd00::/64",)},
            [
                "detectLocalMode is NodeCIDR and the Node has no IPv4 podCIDR yet",
                "fatal: cluster is IPv4-primary but node.spec.podCIDRs contains only IPv6 addresses",
            ],
        ),
        (
            FITS,
            {"pod_cidrs": ("fd00::/64",)},
            ["cluster is IPv4-primary but node.spec.podCIDRs contains only IPv6 addresses"],
        ),
        (OTHERS, {}, []),
        (
            OTHERS,
            {"dual_stack": False},
            [
                "cluster is IPv4-only but ipvs.excludeCIDRs contains only IPv6 addresses",
                "cluster is IPv4-only but healthzBindAddress is IPv6",
                "cluster is IPv4-only but metricsBindAddress is IPv6",
            ],
        ),
        (
            ("--cluster-cidr=fd00::/56", "--nodeport-addresses=primary"),
            {"addresses": ("fd00::1",), "dual_stack": False},
            ["cluster is IPv6-only but metricsBindAddress is IPv4"],
        ),
        (FITS, {"addresses": ()}, ["can't determine this node's IP, assuming loopback"]),
        ((*FITS, "--bind-address=192.0.2.7"), {"addresses": ()}, []),
        (("--nodeport-addresses=primary",), {}, ["detectLocalMode is ClusterCIDR and no clusterCIDR is set"]),
        (
            (*FITS, "--detect-local-mode=NodeCIDR"),
            {},
            ["detectLocalMode is NodeCIDR and the Node has no IPv4 podCIDR yet"],
        ),
    ],
)
def test_found(flags: tuple[str, ...], node: dict[str, Any], found: list[str]) -> None:
    told = mismatches(
        parse(flags).configuration,
        node.get("addresses", ("192.0.2.1",)),
        dual_stack=node.get("dual_stack", True),
        pod_cidrs=node.get("pod_cidrs", ()),
    )
    lines = [("fatal: " if each.fatal else "") + each.text for each in told]
    assert len(lines) == len(found)
    assert all(line.startswith(start) for line, start in zip(lines, found, strict=True)), lines


@pytest.mark.parametrize(
    ("flags", "addresses", "family"),
    [
        ((), (), V4),
        ((), ("fd00::1", "192.0.2.1"), V6),
        ((), ("192.0.2.1", "fd00::1"), V4),
        (("--bind-address=fd00::5",), ("192.0.2.1",), V6),
        (("--bind-address=::",), ("192.0.2.1",), V4),
    ],
)
def test_the_first_address_says_the_primary_family(
    flags: tuple[str, ...], addresses: tuple[str, ...], family: Family
) -> None:
    assert primary_family(parse(flags).configuration, addresses) is family
