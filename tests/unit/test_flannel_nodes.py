"""A node's lease in its Node object: the annotations' names, what may be read of them, and what is written."""

from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest

from flannel.lease import LeaseAttrs, LeaseError, encode_vtep
from flannel.nodes import (
    NodeRecord,
    annotation_names,
    decode_node_record,
    given_address,
    is_published,
    lease_patch,
    node_lease,
    pod_subnet,
    published_attrs,
)
from kubeproxy.model.decode import DecodeError

pytestmark = pytest.mark.unit

NAMES = annotation_names("flannel.alpha.coreos.com")
VTEP = encode_vtep(1, "0e:00:00:00:00:01")
ATTRS = LeaseAttrs(public_ip=IPv4Address("1.2.3.4"), backend_type="vxlan", backend_data=VTEP)


def node(annotations: dict[str, str], **spec: Any) -> NodeRecord:
    body = {"metadata": {"name": "n1", "annotations": annotations}, "spec": spec or {"podCIDR": "10.244.1.0/24"}}
    return decode_node_record(NAMES, msgspec.json.encode(body))


def published(**other: str) -> dict[str, str]:
    """What flanneld wrote, with annotations of other names replaced."""
    said = lease_patch(NAMES, ATTRS)["metadata"]["annotations"]
    return said | {getattr(NAMES, name): value for name, value in other.items()}


@pytest.mark.parametrize(
    ("prefix", "backend_type"),
    [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/prefix", "flannel.alpha.coreos.com/prefix-backend-type"),
        ("flannel.alpha.coreos.com/prefix-", "flannel.alpha.coreos.com/prefix-backend-type"),
        ("org.com", "org.com/backend-type"),
        ("org9.com", "org9.com/backend-type"),
        ("org.com/9", "org.com/9-backend-type"),
    ],
)
def test_annotation_prefixes_are_flannels(prefix, backend_type):
    assert annotation_names(prefix).backend_type == backend_type


@pytest.mark.parametrize(
    "prefix",
    ["", "org", "org/", "org/prefix", "org.COM", "org.com/PREFIX", "org.com/a/b", "org.com/a\n", "!o.com/a"],
)
def test_annotation_prefixes_that_are_none_are_refused(prefix):
    with pytest.raises(ValueError, match="prefix"):
        annotation_names(prefix)


@pytest.mark.parametrize(
    ("spec", "subnet"),
    [
        ({"podCIDR": "10.244.1.0/24"}, "10.244.1.0/24"),
        ({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.2.0/24"]}, "10.244.2.0/24"),
        ({"podCIDRs": ["fd00:1::/64", "10.244.2.0/24"]}, "10.244.2.0/24"),
        ({"podCIDRs": ["10.244.2.7/24"]}, "10.244.2.0/24"),
        ({"podCIDRs": []}, "None"),
        ({"podCIDR": ""}, "None"),
    ],
)
def test_the_subnet_is_the_pod_cidr(spec, subnet):
    assert str(pod_subnet(node({}, **spec))) == subnet


@pytest.mark.parametrize(
    ("cidrs", "complaint"),
    [
        (["10.1.0.0/24", "fd00::/64", "10.2.0.0/24"], "IPv4/IPv6 only or dualstack"),
        (["fd00::/64"], "no IPv4 pod cidr"),
        (["10.1.0.0/31"], "too small"),
        (["10.1.0.0/24\nFLANNEL_SUBNET=0.0.0.0/0"], "no IPv4 network"),
    ],
)
def test_pod_cidrs_of_no_use_are_refused_by_name(cidrs, complaint):
    with pytest.raises(LeaseError, match=complaint):
        pod_subnet(node({}, podCIDRs=cidrs))


def test_a_node_that_flanneld_runs_on_has_a_lease():
    lease = node_lease(node(published()))
    assert lease is not None
    assert (str(lease.subnet), lease.attrs, lease.key) == ("10.244.1.0/24", ATTRS, "n1")
    assert is_published(node(published()), ATTRS)


def test_a_node_without_flanneld_or_pod_cidr_has_none():
    assert node_lease(node({})) is None
    assert node_lease(node(published(managed="false"))) is None
    assert node_lease(node(published(), podCIDRs=[])) is None


def test_backends_without_data_publish_null_as_flannel_does():
    attrs = LeaseAttrs(public_ip=ATTRS.public_ip, backend_type="host-gw")
    said = lease_patch(NAMES, attrs)["metadata"]["annotations"]
    assert said == {
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/backend-type": "host-gw",
        "flannel.alpha.coreos.com/backend-data": "null",
        "flannel.alpha.coreos.com/public-ip": "1.2.3.4",
    }
    lease = node_lease(node(said))
    assert lease is not None
    assert lease.attrs == attrs


@pytest.mark.parametrize("address", ["", "1.2.3", "0.0.0.0", "127.0.0.1", "224.0.0.1", "1.2.3.4\n", "::1"])
def test_a_public_address_of_no_host_is_refused(address):
    with pytest.raises(LeaseError, match="PublicIP"):
        node_lease(node(published(public_ip=address)))


def test_an_annotation_without_end_is_cut_and_refused():
    record = node(published(backend_data="x" * 1_000_000))
    assert len(record.backend_data) < 10_000
    with pytest.raises(LeaseError, match="more than 4096 bytes"):
        node_lease(record)


def test_an_administrators_addresses_win():
    assert published_attrs(node({}), ATTRS) == ATTRS
    overwritten = published_attrs(node({NAMES.public_ip_overwrite: "9.9.9.9"}), ATTRS)
    assert overwritten.public_ip == IPv4Address("9.9.9.9")
    assert given_address(node({NAMES.node_public_ip: "8.8.8.8"})) == IPv4Address("8.8.8.8")
    assert given_address(node({})) is None


@pytest.mark.parametrize("data", [b"", b"[]", b'{"metadata":{"name":"../x"}}', b'{"metadata":{"name":7}}'])
def test_what_is_no_node_is_refused(data):
    with pytest.raises(DecodeError):
        decode_node_record(NAMES, data)
