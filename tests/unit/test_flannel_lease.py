"""A lease as flannel writes it, and the files and flags around it."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from flannel.config import make_config
from flannel.flags import COMMAND_LINE, FLAGS
from flannel.lease import (
    LeaseAttrs,
    LeaseError,
    decode_attrs,
    decode_lease,
    decode_vtep,
    encode_attrs,
    encode_vtep,
    parse_subnet_key,
    subnet_key,
)
from flannel.netconf import parse_netconf
from flannel.subnet_env import parse_subnet_env, read_subnet_env, render_subnet_env, write_subnet_env
from kubeproxy.flags import FlagError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("key", "subnet"),
    [
        ("10.12.13.0-24", "10.12.13.0/24"),
        ("10.12.0.0-16", "10.12.0.0/16"),
        ("10.12.13.0-24&fd00:12:13::-64", "10.12.13.0/24"),
        ("10.12.13.0-24&2001::-56", "10.12.13.0/24"),
    ],
)
def test_keys_parse(key, subnet):
    assert parse_subnet_key(key) == IPv4Network(subnet)


@pytest.mark.parametrize(
    "key",
    [
        *("", "10", "10.12.13.0", "10.12.13-24", "10.12.13.300-24", "10.12.13.0-24hi", "&2001::-56"),
        *("10.12.13.0-24&:12:13:-56", "10.12.13.0-24&20011::-56", "10.12.13.0-24&2001-56", "10.12.13.0-24&2001::"),
        *(
            "10.12.13.0-24&2001::-56hi",
            "10.12.13.0-32",
            "10.12.13.0-24&2001::-128",
            "10.12.13.7-24",
            "x10.12.13.0-24",
        ),
        *("10.12.13.0-24\n", "１0.12.13.0-24", "10.12.13.0-24&2001::-56/../x", "9" * 500),
    ],
)
def test_keys_that_are_no_subnets_are_refused(key):
    with pytest.raises(LeaseError):
        parse_subnet_key(key)


def test_a_key_is_written_as_it_is_read():
    assert subnet_key(IPv4Network("10.5.34.0/24")) == "10.5.34.0-24"


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        (LeaseAttrs(public_ip=IPv4Address("1.2.3.4")), b'{"PublicIP":"1.2.3.4","PublicIPv6":null}'),
        (
            LeaseAttrs(public_ip=IPv4Address("1.2.3.4"), backend_type="host-gw"),
            b'{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw"}',
        ),
        (
            LeaseAttrs(
                public_ip=IPv4Address("192.168.64.3"),
                backend_type="vxlan",
                backend_data=encode_vtep(1, "c6:d2:32:6f:8f:44"),
            ),
            b'{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}',
        ),
    ],
)
def test_values_are_flannels_to_the_byte(attrs, text):
    assert encode_attrs(attrs) == text
    assert decode_attrs(text) == attrs


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"{", b"[]", b"{}", b'{"PublicIP":null}', b'{"PublicIP":7}', b'{"PublicIP":"1.2.3"}'),
        *(
            b'{"PublicIP":"::1"}',
            b'{"PublicIP":"0.0.0.0"}',
            b'{"PublicIP":"127.0.0.1"}',
            b'{"PublicIP":"224.0.0.1"}',
        ),
        *(
            b'{"PublicIP":"1.2.3.4 dev lo"}',
            b"\xff",
            b'{"PublicIP":"1.2.3.4","BackendData":"' + b"x" * 5000 + b'"}',
        ),
    ],
)
def test_values_that_are_no_leases_are_refused(value):
    with pytest.raises(LeaseError):
        decode_lease("/coreos.com/network/subnets/10.5.34.0-24", value)


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"null",
            b'"x"',
            b'{"VNI":1}',
            b'{"VNI":1,"VtepMAC":"x"}',
            b'{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}',
        ),
        *(b'{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}', b'{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44:55"}'),
    ],
)
def test_a_vtep_needs_a_unicast_mac(data):
    with pytest.raises(LeaseError):
        decode_vtep(data)


# --- subnet.env ------------------------------------------------------------------------------------------


def test_subnet_env_is_written_whole_and_read_back(tmp_path: Path):
    netconf = parse_netconf(b'{"Network":"10.42.0.0/16"}')
    path = tmp_path / "run" / "flannel" / "subnet.env"
    text = render_subnet_env(netconf, IPv4Network("10.42.7.0/24"), 1450, masquerade=True)
    assert text == (
        "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    write_subnet_env(path, text)
    write_subnet_env(path, text)
    assert path.read_text() == text
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["subnet.env"]
    previous = read_subnet_env(path)
    assert (previous.network, previous.subnet) == (IPv4Network("10.42.0.0/16"), IPv4Network("10.42.7.0/24"))


@pytest.mark.parametrize("text", ["", "FLANNEL_SUBNET=", "FLANNEL_SUBNET=10.42.7.1", "FLANNEL_SUBNET=x/24", "\0="])
def test_a_broken_subnet_env_is_as_good_as_none(text):
    assert parse_subnet_env(text).subnet is None


def test_an_absent_subnet_env_is_none(tmp_path: Path):
    assert read_subnet_env(tmp_path / "absent").subnet is None


# --- flags -----------------------------------------------------------------------------------------------


def test_flags_are_gos():
    flags = COMMAND_LINE.parse(
        ["-etcd-endpoints=http://a:1", "--etcd-prefix", "/x", "-iface", "eth0", "-iface=eth1", "-ip-masq", "-v=4"],
        {"FLANNELD_ETCD_PREFIX": "/y", "FLANNELD_SUBNET_FILE": "/z", "FLANNELD_IP_MASQ": "false"},
    )
    assert (flags["etcd-endpoints"], flags["etcd-prefix"], flags["subnet-file"]) == ("http://a:1", "/x", "/z")
    assert (flags["iface"], flags["ip-masq"], flags["v"]) == (("eth0", "eth1"), True, 4)
    assert flags["iptables-forward-rules"] is True
    assert COMMAND_LINE.parse(["-iptables-forward-rules=false"], {})["iptables-forward-rules"] is False


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (["-frobnicate"], {}, "flag provided but not defined: -frobnicate"),
        (["-public-ipv6=::1"], {}, "-public-ipv6 is not built yet"),
        (["-kube-annotation-prefix=org"], {}, "-kube-annotation-prefix: 'org': prefix must be in a format"),
        (["-kube-api-url=here"], {}, "-kube-api-url: 'here' is no URL"),
        ([], {"FLANNELD_PUBLIC_IPV6": "::1"}, "FLANNELD_PUBLIC_IPV6 is set"),
        (["-etcd-prefix"], {}, "needs an argument"),
        (["-ip-masq=maybe"], {}, "strconv.ParseBool"),
        (["-v", "loud"], {}, "strconv.ParseInt"),
        (["stray"], {}, "unexpected argument"),
        (["-etcd-cafile=/x"], {}, "is no https URL"),
        (["-etcd-endpoints=a:1"], {}, "no URL"),
        (["-etcd-endpoints="], {}, "at least one"),
        (["-etcd-prefix=/"], {}, "no key prefix"),
        (["-subnet-lease-renew-margin=1440"], {}, "1 to 1439"),
        (["-iptables-resync=0"], {}, "iptables-resync"),
        (["-healthz-port=65536"], {}, "healthz-port"),
        (["-public-ip=1.2.3"], {}, "-public-ip"),
        (["-iface-regex=["], {}, "no regular expression"),
        (["-iface-can-reach=host.example"], {}, "-iface-can-reach"),
    ],
)
def test_bad_flags_are_refused_by_name(arguments, environment, complaint):
    with pytest.raises(FlagError, match=complaint):
        make_config(COMMAND_LINE.parse(arguments, environment))


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit):
        COMMAND_LINE.parse(["--help"])
    text = capsys.readouterr().out
    assert all(f"--{flag.name}" in text for flag in FLAGS)
