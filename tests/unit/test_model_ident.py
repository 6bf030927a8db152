import pytest

from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit


def test_port_name_is_left_out_when_empty() -> None:
    assert str(ServicePortName("ns", "web", "", Protocol.TCP)) == "ns/web"
    assert str(ServicePortName("ns", "web", "http", Protocol.TCP)) == "ns/web:http"


def test_protocol_is_identity_but_not_text() -> None:
    tcp, udp = (ServicePortName("ns", "dns", "dns", each) for each in (Protocol.TCP, Protocol.UDP))
    assert tcp != udp
    assert str(tcp) == str(udp)
    assert tcp.key == udp.key == ("ns", "dns")
