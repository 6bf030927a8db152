"""Thousands of requests in few sends, all of them refused: with a buffer of any size every refusal is heard of."""

import errno
from collections.abc import Iterator

import pytest

from kubeproxy.kernel.genetlink_messages import CONTROLLER, NETLINK_GENERIC, encode_family
from kubeproxy.kernel.ipvs import Ipvs, IpvsUnavailable
from kubeproxy.kernel.netlink import LAST_SEQUENCE, NetlinkError, NetlinkSocket, error_code
from kubeproxy.model.addresses import Family
from tests.netns.lone_namespace import LoneNamespace, lone_namespace

pytestmark = pytest.mark.netns

REFUSED = [encode_family(f"none-{number:04}") for number in range(3000)]


@pytest.fixture(scope="module")
def namespace() -> Iterator[LoneNamespace]:
    with lone_namespace() as made:
        yield made


@pytest.mark.parametrize("receive_bytes", [1, 20_000, 0, 8 << 20])
def test_every_refusal_is_heard_of(namespace: LoneNamespace, receive_bytes: int) -> None:
    def send() -> list[int]:
        with NetlinkSocket(NETLINK_GENERIC, receive_bytes) as netlink:
            return netlink.pipeline(CONTROLLER, REFUSED)

    assert namespace.run(send) == [errno.ENOENT] * len(REFUSED)


def test_refusals_that_do_not_fit_are_a_failure_with_a_text(namespace: LoneNamespace) -> None:
    def send() -> list[int]:
        with NetlinkSocket(NETLINK_GENERIC, 20_000) as netlink:
            netlink.answers_bytes = 1 << 30
            return netlink.pipeline(CONTROLLER, REFUSED, "these")

    with pytest.raises(NetlinkError, match="these: answers were lost: No buffer space available"):
        namespace.run(send)


def test_numbers_begin_anew_before_32_bits_are_full(namespace: LoneNamespace) -> None:
    """After four billion messages, say; meanwhile most of a pipeline fits 32 bits, and its end would not."""

    def send() -> tuple[list[int], list[int], int]:
        with NetlinkSocket(NETLINK_GENERIC) as netlink:
            netlink._sequence = LAST_SEQUENCE - len(REFUSED) // 2
            refused = netlink.pipeline(CONTROLLER, REFUSED)
            netlink._sequence = LAST_SEQUENCE
            (family,) = netlink.request(CONTROLLER, 0, encode_family("nlctrl"))
            netlink._sequence = LAST_SEQUENCE
            requests = netlink.pipeline_requests([(CONTROLLER, 0, REFUSED[0])])
            return refused, [error_code(each) for each in requests], len(family)

    refused, requests, size = namespace.run(send)
    assert refused == [errno.ENOENT] * len(REFUSED)
    assert requests == [errno.ENOENT]
    assert size


def test_a_kernel_without_ipvs(namespace: LoneNamespace) -> None:
    ipvs = Ipvs()
    if namespace.run(ipvs.available):
        pytest.skip("this kernel has IPVS")
    with pytest.raises(IpvsUnavailable, match="modprobe ip_vs"):
        namespace.run(lambda: ipvs.servers(Family.V4))
