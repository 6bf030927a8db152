"""The comparison that the histories rely on must itself tell apart what differs."""

import pytest

from tests.property.saved_tables import normal, normal_table, parse

pytestmark = pytest.mark.unit

A = '-d 10.96.0.1/32 -p tcp -m comment --comment "a -d 1.1.1.1" -m tcp --dport 80 -j A'
B = "-d 10.96.0.2/32 -p tcp -m tcp --dport 80 -j B"
PORT = "-p tcp -m tcp --dport 81 -j C"
LAST = "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j N"


def test_rules_that_exclude_each_other_may_stand_in_any_order() -> None:
    assert normal([A, B, LAST]) == normal([B, A, LAST])
    assert normal([A, PORT, B]) == normal([PORT, B, A])


@pytest.mark.parametrize(
    "order",
    [
        [LAST, A, B],
        [B, LAST, A],
        [A, B],
        [A, A, B, LAST],
        [A, B.replace("10.96.0.2", "10.96.0.3"), LAST],
    ],
)
def test_what_one_packet_could_match_keeps_its_order(order: list[str]) -> None:
    assert normal([A, B, LAST]) != normal(order)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("-s 10.0.0.0/8 -j A", "-s 10.1.0.0/16 -j B"),
        ("! -s 10.0.0.0/8 -j A", "-s 11.0.0.0/8 -j B"),
        ("-d 10.0.0.0/8 -j A", "-p tcp -m tcp --dport 80 -j B"),
        ("-i kpod-+ -j A", "-i cbr0 -j B"),
        ("-m statistic --mode random --probability 0.5 -j A", "-j B"),
    ],
)
def test_overlapping_rules_do_not_change_places(one: str, two: str) -> None:
    assert normal([one, two]) == [one, two]
    assert normal([two, one]) == [two, one]


def test_which_of_two_refusals_a_packet_meets_makes_no_difference() -> None:
    one = "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable"
    two = "-p tcp -m addrtype --dst-type LOCAL -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable"
    assert normal([one, two]) == normal([two, one])
    drop = two.partition("REJECT")[0] + "DROP"
    assert normal([one, drop]) == [one, drop]
    assert normal([drop, one]) == [drop, one]


def test_a_save_is_read_without_counters_and_policies() -> None:
    text = f":PREROUTING ACCEPT [5:300]\n:KUBE-X - [0:0]\n[3:180] -A KUBE-X {B}\n-A KUBE-X {A}\nCOMMIT\n"
    assert parse(text) == {"PREROUTING": [], "KUBE-X": [B, A]}
    assert normal_table(parse(text)) == normal_table({"KUBE-X": [A, B], "OUTPUT": []})
