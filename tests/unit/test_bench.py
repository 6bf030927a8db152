"""What scripts/bench makes of samples: percentiles, rows, JSON, tables; and the clusters that it measures."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "scripts/benchmarks")
sys.path.append(BENCHMARKS)  # The benchmarks are programs: they import each other as the files beside them.

import cluster  # noqa: E402
import figures  # noqa: E402
import in_turn  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
from figures import Row, Size  # noqa: E402
from subject_iptables import appended_again  # noqa: E402

from kubeproxy.model.addresses import Family  # noqa: E402
from kubeproxy.model.desired import desired  # noqa: E402
from kubeproxy.model.settings import Settings  # noqa: E402

pytestmark = pytest.mark.unit

THREE = Size(1000)


def rendered(rows: list[Row]) -> list[list[str]]:
    columns = report.table("x", rows).columns
    return [list(line) for line in zip(*(column.cells for column in columns), strict=True)]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_percentile_is_a_sample_that_enough_do_not_exceed(share: float, expected: int) -> None:
    assert figures.percentile([float(number) for number in range(100, 0, -1)], share) == expected


def test_a_percentile_of_one_is_that_and_of_none_is_none() -> None:
    assert figures.percentile([7.0], 0.99) == 7
    with pytest.raises(ValueError, match="nothing"):
        figures.percentile([], 0.5)


@pytest.mark.parametrize("text", ["100", "30000", "1x10000", "5x1"])
def test_a_size_is_read_as_it_is_written(text: str) -> None:
    assert str(figures.parse_size(text)) == text


@pytest.mark.parametrize("text", ["", "x", "1x2x3", "many", "0", "3x0", "-1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        figures.parse_size(text)


def test_sizes_in_turn_stand_beside_the_smallest_whatever_their_order() -> None:
    real, in_memory = {Size(500): [0.4], Size(10): [0.2]}, {Size(500): [0.2], Size(10): [0.1]}
    found = in_turn.compared("m", real, in_memory, {Size(500): 9.0, Size(10): 8.0})
    smallest, no_kernel = "the same at 10 Services", "an in-memory no-op kernel"
    assert [(row.what, row.services, row.floor, row.ratio, row.rss_mib) for row in found] == [
        (in_turn.MOVED, 500, smallest, 2.0, 9.0),
        (in_turn.MOVED, 500, no_kernel, 2.0, 9.0),
        (in_turn.MOVED, 10, no_kernel, 2.0, 8.0),
        (in_turn.MOVED_IN_MEMORY, 500, smallest, 2.0, None),
        (in_turn.MOVED_IN_MEMORY, 10, "", None, None),
    ]


def test_a_row_stands_beside_each_floor() -> None:
    found = figures.rows("w", "m", THREE, [0.2, 0.1, 0.3], {"a": [0.1, 0.1], "b": [0.4], "none": []}, rss_mib=9.0)
    assert [(row.floor, row.floor_seconds, row.ratio) for row in found] == [
        ("a", 0.1, pytest.approx(2.0)),
        ("b", 0.4, pytest.approx(0.5)),
    ]
    assert {(row.seconds, row.p50_ms, row.samples, row.rss_mib) for row in found} == {(0.2, 200.0, 3, 9.0)}


def test_a_row_without_a_floor_has_no_ratio() -> None:
    (row,) = figures.rows("w", "m", THREE, [0.2])
    assert (row.floor, row.floor_seconds, row.ratio) == ("", None, None)


@pytest.mark.parametrize(
    ("samples", "expected"), [(99, None), (100, pytest.approx(99.0)), (200, pytest.approx(198.0))]
)
def test_a_99th_percentile_needs_a_hundred_samples(samples: int, expected: object) -> None:
    (row,) = figures.rows("w", "m", THREE, [number / 1000 for number in range(1, samples + 1)])
    assert row.p99_ms == expected


def test_the_json_is_a_list_of_objects_with_every_field() -> None:
    rows = figures.rows("w", "m", Size(1, 10_000), [0.5], {"floor": [0.25]})
    (found,) = json.loads(figures.encode(rows))
    assert found | {"p50_ms": 500.0, "floor_seconds": 0.25, "ratio": 2.0} == found
    assert set(found) >= {
        "what",
        "mode",
        "services",
        "p50_ms",
        "p99_ms",
        "seconds",
        "floor_seconds",
        "ratio",
        "rss_mib",
    }
    assert found["p99_ms"] is None
    assert figures.decode(figures.encode(rows)) == rows


def test_a_measurement_with_several_floors_shows_its_figures_once() -> None:
    lines = rendered(figures.rows("w", "nftables", THREE, [0.5], {"nft -f": [1.0], "nothing": [0.1]}))
    assert [line[0] for line in lines] == ["nftables", ""]
    assert [line[6:] for line in lines] == [["nft -f", "1,000", "0.50"], ["nothing", "100", "5.00"]]


def test_markdown_has_a_line_for_each_measurement_with_all_its_floors() -> None:
    rows = figures.rows("load", "nftables", THREE, [0.5], {"nft -f": [1.0], "nothing": [0.1]})
    rows += figures.rows("load", "ipvs", THREE, [0.25]) + figures.rows("idle", "ipvs", THREE, [0.25])
    text = report.markdown(rows)
    assert [line for line in text.splitlines() if "ipvs" in line or "nft" in line or "**" in line] == [
        "**load**",
        "| nftables | 1,000 | 500 |  |  |  | nft -f: 1,000 (0.50); nothing: 100 (5.00) |",
        "| ipvs | 1,000 | 250 |  |  |  |  |",
        "**idle**",
        "| ipvs | 1,000 | 250 |  |  |  |  |",
    ]


class FakePlaces:
    """Places where nothing is measured at 1,000 Services."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, list[str]]] = []
        self.failure: BaseException = RuntimeError("no room")

    def __enter__(self) -> "FakePlaces":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, mode: str, size: Size, only: list[str], *, slow: bool) -> list[Row]:
        self.asked.append((mode, str(size), only))
        if size == THREE:
            raise self.failure
        return figures.rows(only[0], mode, size, [1.0])

    def in_turn(self, mode: str, sizes: list[Size]) -> list[Row]:
        self.asked.append((mode, ",".join(map(str, sizes)), ["in-turn"]))
        return []


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> FakePlaces:
    fake = FakePlaces()
    monkeypatch.setattr(run, "Places", lambda: fake)
    # What draws needs a library that only `scripts/setup bench` installs.
    monkeypatch.setitem(sys.modules, "plot", SimpleNamespace(write=lambda rows, path: None))
    return fake


@pytest.mark.parametrize("failure", [RuntimeError("no room"), SystemExit("no room")], ids=["error", "exit"])
def test_a_measurement_that_fails_costs_no_other_its_figures(
    failure: BaseException, places: FakePlaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places.failure = failure
    found = tmp_path / "found.json"
    asked = ["--only=burst", "--modes=nftables", "--sizes=100,1000,10000", f"--json={found}"]
    assert run.main(asked) == 1
    assert [row.services for row in figures.decode(found.read_bytes())] == [100, 10_000]
    told = capsys.readouterr().err
    assert "no room" in told
    assert "failed, with their last words above: nftables at 1000\n" in told


def test_an_agent_that_does_not_answer_ends_its_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_turn, "ANSWER_SECONDS", 0.0)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as silent:
        with pytest.raises(SystemExit, match="of 1000 Services has ended, or was killed"):
            in_turn.Agent(silent, THREE).rest()


def test_what_takes_minutes_is_measured_only_when_slow(places: FakePlaces) -> None:
    few = ["--only=agent,burst,in-turn", "--modes=iptables-nft,ipvs", "--sizes=100,1x10000,10000"]
    assert run.main(few) == 0
    assert places.asked == [
        ("iptables-nft", "100", ["agent", "burst"]),
        ("ipvs", "100", ["agent", "burst"]),
        ("ipvs", "1x10000", ["agent", "burst"]),
        ("ipvs", "10000", ["burst"]),
        ("ipvs", "100,10000", ["in-turn"]),
    ]
    assert run.main([*few, "--slow"]) == 0
    assert ("iptables-nft", "10000", ["agent", "burst"]) in places.asked
    assert ("ipvs", "10000", ["agent", "burst"]) in places.asked


def test_of_several_runs_the_last_word_counts_and_sizes_are_in_order() -> None:
    first = [
        row for n in (100, 10_000) for row in figures.rows("load", "m", Size(n), [1.0], {"a": [1.0], "b": [1.0]})
    ]
    second = [row for n in (1_000, 10_000) for row in figures.rows("load", "m", Size(n), [2.0], {"a": [1.0]})]
    found = figures.latest([first, second])
    assert [(row.services, row.floor, row.seconds) for row in found] == [
        (100, "a", 1.0),
        (100, "b", 1.0),
        (1_000, "a", 2.0),
        (10_000, "a", 2.0),
    ]


def test_tables_take_the_place_of_a_pages_tables() -> None:
    page = f"before\n{report.BEGIN}\n\nold\n\n{report.END}\nafter\n"
    new = report.replaced(page, "| new |\n")
    assert new == f"before\n{report.BEGIN}\n\n| new |\n\n{report.END}\nafter\n"
    assert report.replaced(new, "| new |\n") == new


def test_a_size_of_other_than_three_endpoints_says_so() -> None:
    assert rendered(figures.rows("w", "ipvs", Size(1, 10_000), [0.5]))[0][1] == "1 × 10,000"


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_numbers_are_shown_with_three_digits(value: float | None, text: str) -> None:
    assert report.milliseconds(value) == text


@pytest.mark.parametrize("size", [Size(5), Size(1, 250)])
def test_a_cluster_has_the_services_and_endpoints_that_were_asked_for(size: Size) -> None:
    settings = Settings(node_name=cluster.NODE_NAME, cluster_cidrs=(cluster.CLUSTER_CIDR,))
    states = desired(cluster.world(size), settings, Family.V4)
    assert [state.cluster_ip for state in states.values()] == [cluster.cluster_ip(n) for n in range(size.services)]
    for number, state in enumerate(states.values()):
        expected = {cluster.endpoint(size, number, index) for index in range(size.endpoints)}
        assert {target.address for target in state.cluster} == expected


def test_no_two_services_share_an_address_at_the_largest_size() -> None:
    size = Size(30_000)
    ends = [cluster.endpoint(size, 29_999, 2), cluster.later_endpoint(100_000), cluster.cluster_ip(40_000)]
    assert ends == ["10.129.95.143", "10.249.134.160", "10.96.156.64"]


def test_what_a_floor_appends_to_chains_that_stand_is_taken_back() -> None:
    begun = ":KUBE-SVC-A - [0:0]\n-A KUBE-SVC-A -j RETURN\n"
    shared = "-I KUBE-SERVICES -d 10.0.0.1/32 -j KUBE-SVC-A\n-A KUBE-NODEPORTS -p tcp --dport 1 -j KUBE-SVC-A\n"
    taken = "-D KUBE-SERVICES -d 10.0.0.1/32 -j KUBE-SVC-A\n-D KUBE-NODEPORTS -p tcp --dport 1 -j KUBE-SVC-A\n"

    assert appended_again(f"*nat\n{begun}{shared}COMMIT\n") == f"*nat\n{taken}COMMIT\n"
    # A chain of the same name in another table is another chain.
    assert appended_again("*nat\n:X - [0:0]\nCOMMIT\n*filter\n-A X -j RETURN\nCOMMIT\n") == (
        "*nat\nCOMMIT\n*filter\n-D X -j RETURN\nCOMMIT\n"
    )
    assert appended_again(f"*nat\n{begun}COMMIT\n") == "", "nothing to run a program for"
