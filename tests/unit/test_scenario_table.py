"""The scenario table reads as it is meant, and its examiner lets nothing wrong pass."""

import json
from pathlib import Path

import pytest

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from tests.scenarios.examine import A_SERVER, examine
from tests.scenarios.history import moments
from tests.scenarios.probes import DROPPED, REFUSED, Answer
from tests.scenarios.rows import ROWS
from tests.scenarios.scene import Case, Scene
from tests.scenarios.sites import SITES
from tests.scenarios.table import MODES, eps, lines, parse_expect, row, svc

pytestmark = pytest.mark.unit


def test_every_row_can_be_asked_in_every_mode() -> None:
    names = [each.name for each in ROWS]
    assert len(names) == len(set(names))
    assert {each.site for each in ROWS} <= SITES.keys()
    for mode in MODES:
        for number, each in enumerate(ROWS):
            scene = Scene(each, number)
            for step in range(len(each.steps)):
                asked = [scene.cases(step, family, mode) for family in Family]
                assert any(asked), f"{each.name}, step {step}, in {mode}"


def test_the_page_of_behaviours_names_rows_that_there_are() -> None:
    names = [each.name for each in ROWS]
    page = Path(__file__).parents[2].joinpath("docs/behaviour.md").read_text()
    cited = [line.split("|")[-2].strip() for line in page.splitlines() if line.startswith("| ")]
    for name in (each.strip() for cell in cited for each in cell.split(";")):
        if name not in ("row", "---") and not name.startswith("("):
            assert any(each.startswith(name.removesuffix(" …")) for each in names), name


def test_no_two_rows_share_an_address_or_node_port() -> None:
    owners: dict[object, str] = {}
    for number, each in enumerate(ROWS):
        for kind, data in Scene(each, number).objects(0):
            body = json.loads(data)
            if kind != "Service":
                continue
            ports = body.get("spec", {}).get("ports") or ()
            for place in (
                *body.get("spec", {}).get("clusterIPs", ()),
                *(p["nodePort"] for p in ports if p.get("nodePort")),
            ):
                if place not in ("None", ""):
                    assert owners.setdefault(place, each.name) == each.name


def test_a_history_says_what_a_partial_sync_must_look_at() -> None:
    there, gone = [svc(), eps("be1")], [svc()]
    rows = [
        row("stays", there, ""),
        row("loses", there, "pod cluster:80 -> be1 same", gone, "pod cluster:80 -> REFUSED"),
    ]
    first, second = [
        (m.touched, len(m.cases), dict(m.world.slices)) for m in moments(rows, "usual", "ipvs", [Family.V4])
    ]
    assert first[:2] == (None, 1)
    assert second[:2] == ({("r1", "web")}, 1)
    assert first[2].keys() - second[2].keys() == {("r1", "web-1-v4"), ("r1", "web-1-v6")}


def test_a_line_asks_each_client_about_each_destination() -> None:
    found = lines("pod,be1 UDP cluster,api/nodeport@alt:53 -> be1,be3:80 masq 53 | v4 iptables", "v4", "iptables")
    assert [(line.client, line.where, line.port, line.protocol) for line in found] == [
        (client, where, 53, Protocol.UDP) for client in ("pod", "be1") for where in ("cluster", "api/nodeport@alt")
    ]
    assert found[0].expect.servers == (("be1", 53), ("be3", 80))
    assert not lines("pod cluster:53 -> REFUSED | v4 iptables", "v6", "iptables")
    assert not lines("pod cluster:53 -> REFUSED | v4 iptables", "v4", "ipvs")


@pytest.mark.parametrize(
    "text",
    [
        "pod cluster:80 be1 same",
        "pod cluster:80 -> be9 same",
        "who cluster:80 -> be1 same",
        "pod cluster:80 -> be1 x",
    ],
)
def test_a_line_with_a_slip_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        lines(text, "v4", "iptables")


def test_symbols_become_addresses_of_each_family() -> None:
    objects = [
        svc("80", "nodeport external", loadBalancerSourceRanges=["$outside/host", "10.0.0.0/8"]),
        svc(name="api", externalIPs=["$cluster:web"], families="v6"),
        eps("be1 terminating zone=a+b", "be3 on="),
    ]
    found = [json.loads(data) for _, data in Scene(row("", objects, ""), 7).objects(0)]
    web, api, four, six = found
    assert web["spec"]["clusterIPs"] == ["10.96.7.0", "fd00:10:96::7:0"]
    assert web["spec"]["loadBalancerSourceRanges"] == ["192.168.56.200/32", "2001:db8:56::200/128", "10.0.0.0/8"]
    assert web["spec"]["ports"] == [{"name": "", "port": 80, "protocol": "TCP", "nodePort": 30070}]
    assert (api["spec"]["clusterIPs"], api["spec"]["externalIPs"]) == (["fd00:10:96::7:a"], ["fd00:10:96::7:0"])
    assert (four["addressType"], six["addressType"]) == ("IPv4", "IPv6")
    assert six["endpoints"][0] == {
        "addresses": ["fd00:10:244::11"],
        "conditions": {"ready": False, "serving": True, "terminating": True},
        "nodeName": "node1",
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}]},
    }
    assert four["endpoints"][1] == {"addresses": ["10.244.1.11"], "conditions": {"ready": True}, "nodeName": None}


BE1, BE2 = Answer(server="be1", client="same", port=80), Answer(server="be2", client="same", port=80)
MASKED, WAN = Answer(server="be1", client="masq", port=80), Answer(server="wan", client="same", port=80)


def _examined(expected: str, *answers: Answer | str) -> tuple[str, int]:
    """Return the finding and how many questions it took; the last answer comes again and again."""
    case = Case(
        row="", namespace="r0", step=0, family=Family.V4, client="pod", source="10.244.0.2", interface="x",
        protocol=Protocol.TCP, address="10.96.0.1", port=80, expect=parse_expect(expected),
        text=f"pod cluster:80 -> {expected}",
    )  # fmt: skip
    given: list[Answer | str] = []

    def ask(_: float) -> Answer | str:
        given.append(answers[min(len(given), len(answers) - 1)])
        return given[-1]

    return examine(case, ask, lambda _: None), len(given)


@pytest.mark.parametrize(
    ("expected", "answers"),
    [
        ("be1 same", [BE1]),
        ("be1 same 80", [BE1]),
        ("be1 any", [BE1, MASKED]),
        ("be1,be2 same", [BE1] * 40 + [BE2]),
        ("sticky be1,be2 same", [BE2]),
        ("forgets be1,be2 same", [BE1, BE1, BE2]),
        ("REFUSED", [REFUSED]),
        ("DROPPED", [DROPPED]),
        ("IGNORED", [WAN]),
    ],
)
def test_what_is_expected_passes(expected: str, answers: list[Answer | str]) -> None:
    assert _examined(expected, *answers)[0] == ""


@pytest.mark.parametrize(
    ("expected", "answers"),
    [
        ("be1 same", [BE1, BE1, BE1, BE1, BE1, BE2]),
        ("be1 same", [BE1, MASKED]),
        ("be1 same 8080", [BE1]),
        ("be1 same", [BE1, DROPPED]),
        ("be1,be2 same", [BE1]),
        ("sticky be1,be2 same", [BE1] * 12 + [BE2]),
        ("sticky be1 same", [BE2]),
        ("forgets be1,be2 same", [BE1]),
        ("REFUSED", [DROPPED]),
        ("REFUSED", [BE1]),
        ("DROPPED", [REFUSED]),
        ("IGNORED", [REFUSED]),
        ("IGNORED", [BE1]),
        ("IGNORED", [Answer(server="wan", client="masq", port=80)]),
    ],
)
def test_what_is_not_is_told(expected: str, answers: list[Answer | str]) -> None:
    assert _examined(expected, *answers)[0]


def test_it_asks_no_longer_than_it_must() -> None:
    assert _examined("be1 same", BE1)[1] == 6
    assert _examined("be1,be2 same", BE1)[1] == 2 * A_SERVER
