"""net-conf.json: flannel's defaults, overrides and refusals, as its own tests and documentation give them."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from flannel.backends.base import Context
from flannel.backends.registry import make_backend
from flannel.netconf import NetConfError, parse_netconf
from flannel.overlay import Underlay
from kubeproxy.kernel.fake_interfaces import FakeInterfaces
from kubeproxy.kernel.links import Wiring

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "length", "lowest", "highest"),
    [
        ('{"Network":"10.3.0.0/16"}', 24, "10.3.1.0", "10.3.255.0"),
        ('{"network":"10.3.0.0/16"}', 24, "10.3.1.0", "10.3.255.0"),
        ('{"Network":"10.3.0.0/22"}', 24, "10.3.1.0", "10.3.3.0"),
        ('{"Network":"10.3.0.0/23"}', 25, "10.3.0.128", "10.3.1.128"),
        ('{"Network":"10.3.0.0/28"}', 30, "10.3.0.4", "10.3.0.12"),
        ('{"Network":"10.3.7.9/16"}', 24, "10.3.1.0", "10.3.255.0"),
        ('{"Network":"10.3.0.0/16","SubnetLen":28}', 28, "10.3.0.16", "10.3.255.240"),
        ('{"Network":"10.3.0.0/16","SubnetLen":0,"SubnetMin":"0.0.0.0"}', 24, "10.3.1.0", "10.3.255.0"),
        (
            '{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0","SubnetLen":28}',
            28,
            "10.3.5.0",
            "10.3.8.0",
        ),
        ('{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.5.0"}', 24, "10.3.5.0", "10.3.5.0"),
        ('{"Network":"0.0.0.0/0"}', 24, "0.0.1.0", "255.255.255.0"),
    ],
)
def test_defaults_and_overrides(text, length, lowest, highest):
    netconf = parse_netconf(text.encode())
    assert (netconf.subnet_length, netconf.subnet_min, netconf.subnet_max) == (
        length,
        IPv4Address(lowest),
        IPv4Address(highest),
    )


def test_an_absent_backend_is_udp_and_a_type_is_folded():
    assert parse_netconf(b'{"Network":"10.3.0.0/16"}').backend.type == "udp"
    assert parse_netconf(b'{"Network":"10.3.0.0/16","Backend":{"TYPE":"VXLAN","vni":7}}').backend.type == "vxlan"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"{", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "Network: please define a correct Network"),
        (b'{"Network":"10.3.0.0"}', "Network: '10.3.0.0' is no IPv4 network"),
        (b'{"Network":"fd00::/48"}', "is no IPv4 network"),
        (b'{"Network":7}', "is no IPv4 network"),
        (b'{"Network":"10.3.0.0/29"}', "too small"),
        (b'{"Network":"10.3.0.0/16","SubnetLen":31}', "less than /31"),
        (b'{"Network":"10.3.0.0/16","SubnetLen":17}', "at least four subnets"),
        (b'{"Network":"10.3.0.0/16","SubnetLen":"24"}', "SubnetLen: must be a whole number"),
        (b'{"Network":"10.3.0.0/16","SubnetLen":true}', "SubnetLen: must be a whole number"),
        (b'{"Network":"10.3.0.0/16","SubnetMin":"10.4.1.0"}', "SubnetMin: 10.4.1.0 is not in the range"),
        (b'{"Network":"10.3.0.0/16","SubnetMax":"10.4.1.0"}', "SubnetMax: 10.4.1.0 is not in the range"),
        (b'{"Network":"10.3.0.0/16","SubnetMin":"10.3.1.4"}', "not on a SubnetLen boundary"),
        (b'{"Network":"10.3.0.0/16","SubnetMin":"x"}', "SubnetMin: 'x' is no IPv4 address"),
        (b'{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}', "above SubnetMax"),
        (b'{"Network":"10.3.0.0/16","EnableIPv6":true}', "EnableIPv6: IPv6 is not built yet"),
        (b'{"Network":"10.3.0.0/16","EnableNFTables":true}', "EnableNFTables"),
        (b'{"Network":"10.3.0.0/16","EnableIPv4":false}', "EnableIPv4"),
        (b'{"Network":"10.3.0.0/16","EnableIPv4":"yes"}', "must be true or false"),
        (b'{"Network":"10.3.0.0/16","Backend":"vxlan"}', "Backend: must be a JSON object"),
        (b'{"Network":"10.3.0.0/16","Backend":{"Type":1}}', "Backend.Type: must be a string"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(text, complaint):
    with pytest.raises(NetConfError) as refused:
        parse_netconf(text)
    assert complaint in str(refused.value)


def test_only_aligned_subnets_between_min_and_max_fit():
    netconf = parse_netconf(b'{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.7.0"}')
    fits = [str(subnet) for subnet in IPv4Network("10.3.0.0/16").subnets(new_prefix=24) if netconf.fits(subnet)]
    assert fits == ["10.3.5.0/24", "10.3.6.0/24", "10.3.7.0/24"] == [str(subnet) for subnet in netconf.subnets()]
    assert not netconf.fits(IPv4Network("10.3.5.0/25"))


UNDERLAY = Underlay(
    link="eth0", address=IPv4Address("192.168.56.11"), mtu=1500, public_ip=IPv4Address("192.168.56.11")
)


def backend(options: str, underlay: Underlay = UNDERLAY):
    netconf = parse_netconf(b'{"Network":"10.3.0.0/16","Backend":' + options.encode() + b"}")
    return make_backend(Context(netconf=netconf, underlay=underlay, interfaces=FakeInterfaces(Wiring())))


def test_each_backend_leaves_room_for_its_headers():
    assert backend('{"Type":"vxlan"}').mtu == 1450
    assert backend('{"Type":"vxlan","MTU":9000}').mtu == 8950
    assert backend('{"Type":"udp"}').mtu == 1472
    assert backend('{"Type":"host-gw"}').mtu == 1500


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ('{"Type":"wireguard"}', "'wireguard' is not built yet; there are alloc, host-gw, udp, vxlan"),
        ('{"Type":"carrier-pigeon"}', "'carrier-pigeon' is unknown"),
        ('{"Type":"vxlan","VNI":"one"}', "vni"),
        ('{"Type":"vxlan","VNI":16777216}', "vni"),
        ('{"Type":"vxlan","Port":70000}', "port"),
        ('{"Type":"vxlan","DirectRouting":"yes"}', "directrouting"),
        ('{"Type":"vxlan","MTU":300}', "MTU"),
        ('{"Type":"udp","Port":-1}', "port"),
    ],
)
def test_bad_backend_options_are_refused(options, complaint):
    with pytest.raises(NetConfError, match=complaint):
        backend(options)
