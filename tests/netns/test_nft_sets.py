"""Sets in a table of nftables, on the real kernel: the same as a model of ipsets, whatever comes and goes."""

import random
import subprocess

import pytest

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nft_set_elements import WHOLE_MARK
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from tests.netns.lone_namespace import LoneNamespace

pytestmark = pytest.mark.netns

TABLE = "test-sets"
KINDS = {f"KUBE-{kind.name}": kind for kind in SetType if kind is not SetType.CLIENTS}
STEPS = 60
APART = {
    Family.V4: ("10.0.0.0/8", "192.168.1.0/24", "11.0.0.1/32"),
    Family.V6: ("fd00::/8", "2001:db8::/64", "2002::1/128"),
}


def made(family: Family = Family.V4) -> NftSets:
    return NftSets(KernelTable(family, TABLE))


def address(family: Family, number: int) -> str:
    return f"10.96.0.{number}" if family is Family.V4 else f"fd00:96::{number:x}"


def some_entry(chance: random.Random, family: Family, kind: SetType) -> Member:
    host = address(family, chance.randint(1, 5))
    protocol, port = chance.choice(list(Protocol)), chance.choice((53, 80, 65535))
    if kind is SetType.ADDRESSES:
        return host
    if kind is SetType.PORT_NUMBERS:
        return chance.randint(1, 12)
    if kind is SetType.MARKS:
        return host, protocol, port, chance.randint(1, 3) << 24, WHOLE_MARK
    if kind is SetType.RANGES:
        v4 = family is Family.V4
        apart = (
            ("10.0.0.0/8", "192.168.1.0/24", "11.0.0.1/32") if v4 else ("fd00::/8", "2001:db8::/64", "2002::1/128")
        )
        return host, protocol, port, chance.choice(apart)
    return host, protocol, port


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_and_goes_the_kernel_holds_what_a_model_does(
    alone: LoneNamespace, family: Family, seed: int
) -> None:
    chance = random.Random(seed)

    def history() -> None:
        real, model = made(family), FakeSets(family)
        for _ in range(STEPS):
            name = chance.choice(list(KINDS))
            match chance.choice(("create", "apply", "apply", "apply", "destroy", "restart", "disturb")):
                case "create":
                    assert real.create(name, KINDS[name]) is model.create(name, KINDS[name])
                case "destroy" if chance.random() < 0.3:
                    assert real.destroy(name) is model.destroy(name)
                case "restart":
                    real = made(family)
                case "disturb":
                    subprocess.run(["nft", "add", "table", "ip", f"other{chance.randint(0, 99)}"], check=True)
                case _ if model.sets:
                    changes = []
                    for each in chance.sample(list(model.sets), chance.randint(1, len(model.sets))):
                        adds = [some_entry(chance, family, KINDS[each]) for _ in range(chance.randint(0, 8))]
                        if KINDS[each] is SetType.MARKS:  # one mark at a place, as the backend has it
                            adds = list({entry[:3]: entry for entry in adds}.values())  # type: ignore[index]
                        deletes = [some_entry(chance, family, KINDS[each]) for _ in range(chance.randint(0, 8))]
                        changes.append((each, adds, deletes))
                    real.apply(changes)
                    model.apply(changes)
            assert real.named("KUBE-") == model.named("KUBE-")
            assert {each: real.members(each) for each in model.sets} == model.sets
            assert real.sizes("KUBE-") == model.sizes("KUBE-")
        fresh = made(family)
        assert {each: fresh.members(each) for each in model.sets} == model.sets
        for each in list(model.sets):
            assert fresh.destroy(each)

    alone.run(history)
    assert TABLE not in alone.execute("nft", "list", "tables")


@pytest.mark.parametrize("family", list(Family))
def test_a_wider_range_takes_the_place_of_narrower_ones_and_gives_it_back(
    alone: LoneNamespace, family: Family
) -> None:
    wide, narrow, other = (
        ("10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16")
        if family is Family.V4
        else ("fd00::/8", "fd00:1::/32", "fd00:2::/32")
    )
    entry = {each: (address(family, 1), Protocol.TCP, 80, each) for each in (wide, narrow, other)}

    def work() -> None:
        sets = made(family)
        sets.create("KUBE-RANGES", SetType.RANGES)
        for adds, deletes, held in (
            ([narrow, other], [], {narrow, other}),
            ([wide], [], {wide}),
            ([], [other], {wide}),
            ([], [wide], {narrow}),
            ([wide, other], [narrow], {wide}),
            ([other], [wide], {other}),
        ):
            sets.apply([("KUBE-RANGES", [entry[each] for each in adds], [entry[each] for each in deletes])])
            assert made(family).members("KUBE-RANGES") == {entry[each] for each in held}
            assert sets.sizes("KUBE-") == {"KUBE-RANGES": len(held)}

    alone.run(work)


def test_an_entry_that_is_refused_is_named_and_keeps_nobody_out(alone: LoneNamespace) -> None:
    good = [(address(Family.V4, number), Protocol.TCP, 80) for number in range(1, 40)]
    bad = ("fd00::1", Protocol.UDP, 53)

    def work() -> None:
        sets = made()
        sets.create("KUBE-PORTS", SetType.PORTS)
        with pytest.raises(EntriesRefused, match=r"fd00::1,udp:53: ") as caught:
            sets.add("KUBE-PORTS", [*good[:20], bad, *good[20:]])
        assert set(caught.value.refused) == {("KUBE-PORTS", bad)}
        assert sets.members("KUBE-PORTS") == set(good)
        with pytest.raises(KernelError, match="does not have this set's shape"):
            sets.add("KUBE-PORTS", [("fd00::1", Protocol.UDP, number) for number in range(1, 60)])
        assert sets.members("KUBE-PORTS") == set(good)

    alone.run(work)


def test_what_somebody_else_does_is_seen(alone: LoneNamespace) -> None:
    entry = (address(Family.V4, 1), Protocol.TCP, 80)
    where = ("ip", TABLE, "KUBE-PORTS")

    def work() -> None:
        sets = made()
        sets.create("KUBE-PORTS", SetType.PORTS)
        sets.add("KUBE-PORTS", [entry])
        alone_nft("add", "element", *where, "{ 10.96.0.9 . udp . 53 }")
        assert sets.sizes("KUBE-") == {"KUBE-PORTS": 2}
        alone_nft("flush", "set", *where)
        assert sets.sizes("KUBE-") == {"KUBE-PORTS": 0}
        sets.delete("KUBE-PORTS", [entry])  # is gone already, which the kernel refuses at first
        assert sets.members("KUBE-PORTS") == set()
        alone_nft("delete", "set", *where)
        assert sets.sizes("KUBE-") == {}
        with pytest.raises(KernelError, match="KUBE-PORTS: there is no such set"):
            sets.members("KUBE-PORTS")
        alone_nft("add", "set", *where, "{ type mark ; }")
        with pytest.raises(KernelError, match="KUBE-PORTS: somebody's set of another type has this name"):
            sets.create("KUBE-PORTS", SetType.PORTS)

    alone.run(work)


def test_a_set_that_a_rule_refers_to_stays(alone: LoneNamespace) -> None:
    def work() -> None:
        sets = made()
        sets.create("KUBE-ADDRESSES", SetType.ADDRESSES)
        sets.create("KUBE-PORTS", SetType.PORTS)
        alone_nft("add", "chain", "ip", TABLE, "somebodys")
        alone_nft("add", "rule", "ip", TABLE, "somebodys", "ip", "daddr", "@KUBE-ADDRESSES", "drop")
        assert not sets.destroy("KUBE-ADDRESSES")
        assert sets.destroy("KUBE-PORTS")
        alone_nft("delete", "chain", "ip", TABLE, "somebodys")
        assert sets.destroy("KUBE-ADDRESSES")
        assert sets.named("KUBE-") == set()

    alone.run(work)


def alone_nft(*arguments: str) -> None:
    """Run nft in the namespace of the calling thread."""
    subprocess.run(["nft", *arguments], check=True)


@pytest.mark.parametrize("family", list(Family))
def test_what_ours_never_are_is_purged(alone: LoneNamespace, family: Family) -> None:
    entries: dict[str, list[Member]] = {
        name: [some_entry(random.Random(1), family, kind)] for name, kind in KINDS.items()
    }
    one, other = address(family, 7), address(family, 8)
    where = ("ip" if family is Family.V4 else "ip6", TABLE)

    def work() -> None:
        sets = made(family)
        for name, kind in KINDS.items():
            sets.create(name, kind)
        sets.apply([(name, members, ()) for name, members in entries.items()])
        strange = {
            "KUBE-PORTS": f"{one} . 1 . 80",
            "KUBE-MARKS": f"{one} . 1 . 80 : 0x1",
            "KUBE-ENDPOINTS": f"{one} . 6 . 80 . {other}",
        }
        for name, element in strange.items():
            subprocess.run(["nft", "add", "element", *where, name, f"{{ {element} }}"], check=True)
        assert {name: size for name, size in sets.sizes("").items() if size > 1} == dict.fromkeys(strange, 2)
        for name in KINDS:
            assert sets.members(name) == set(entries[name])
            sets.purge(name)
        sets = made(family)
        assert set(sets.sizes("").values()) <= {1}
        for name in KINDS:
            assert sets.members(name) == set(entries[name])

    alone.run(work)
