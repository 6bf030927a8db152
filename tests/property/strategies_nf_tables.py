"""Steps of nf_tables transactions, drawn from a small world so that they meet each other."""

from hypothesis import strategies as st

from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables import fields
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.types import Field
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

PLACE = (Field.ADDRESS, Field.PROTOCOL, Field.PORT)
BASES = {
    "nat-prerouting": t.Base("nat", t.Hook.PREROUTING, -100),
    "nat-postrouting": t.Base("nat", t.Hook.POSTROUTING, 100),
    "filter-forward": t.Base("filter", t.Hook.FORWARD, 0),
}
CHAINS = ("services", "pick-2", "pick-3", "masquerading")
SETS = {
    spec.name: spec
    for spec in (
        t.SetSpec(name="cluster-ips", key=(Field.ADDRESS,)),
        t.SetSpec(name="service-ips", key=PLACE, data=(Field.CLASS,), comment="classes"),
        t.SetSpec(name="picks", key=(Field.CLASS,), data=t.VERDICTS),
        t.SetSpec(name="endpoints", key=(*PLACE, Field.SLOT), data=(Field.ADDRESS, Field.PORT)),
        t.SetSpec(name="nodeports", key=(Field.PROTOCOL, Field.PORT), data=(Field.CLASS,), size=2),
        t.SetSpec(name="ports", key=(Field.PORT,)),
        t.SetSpec(name="firewall-sources", key=(*PLACE, Field.SOURCE), interval=True),
        t.SetSpec(name="affinity", key=(Field.SOURCE, *PLACE), data=(Field.CLASS,), dynamic=True, size=100),
    )
}
OTHER_SHAPES = (
    t.SetSpec(name="cluster-ips", key=(Field.ADDRESS,), data=(Field.CLASS,)),
    t.SetSpec(name="service-ips", key=PLACE),
    t.SetSpec(name="ports", key=(Field.MARK,)),
)
NETWORKS = {
    Family.V4: (("10.0.0.0", "10.255.255.255"), ("192.168.1.0", "192.168.1.255"), ("11.0.0.1", "11.0.0.1")),
    Family.V6: (("fd00::", "fdff::ffff"), ("2001:db8::", "2001:db8::ff"), ("2002::1", "2002::1")),
}


def address(family: Family, number: int) -> str:
    return f"10.96.0.{number}" if family is Family.V4 else f"fd00:96::{number:x}"


def packed(family: Family, field: Field, number: int) -> bytes:
    """Return the bytes of one of a few values of a field."""
    match field:
        case Field.ADDRESS | Field.SOURCE:
            return fields.packed_address(address(family, number))
        case Field.PROTOCOL:
            return bytes((fields.PROTOCOL_NUMBER[list(Protocol)[number % 3]],))
        case Field.PORT:
            return (80 + number).to_bytes(2, "big")
        case _:
            return fields.number(number)


def together(parts: list[bytes]) -> bytes:
    if len(parts) == 1:
        return parts[0]
    return b"".join(part.ljust((len(part) + 3) & ~3, b"\0") for part in parts)


NUMBERS = st.integers(1, 3)
TARGETS = st.sampled_from((*CHAINS, "nat-prerouting", "absent"))
VERDICTS = st.one_of(
    st.sampled_from((ex.Decide(ex.VerdictWord.ACCEPT), ex.Decide(ex.VerdictWord.DROP))),
    st.builds(ex.Decide, st.sampled_from((ex.VerdictWord.JUMP, ex.VerdictWord.GOTO)), TARGETS),
)


@st.composite
def some_fields(draw: st.DrawFn, family: Family, wanted: tuple[Field, ...]) -> bytes:
    return together([packed(family, field, draw(NUMBERS)) for field in wanted])


@st.composite
def some_element(draw: st.DrawFn, family: Family, spec: t.SetSpec, comments: st.SearchStrategy[str]) -> t.Element:
    end = None
    if spec.interval:
        place = draw(some_fields(family, spec.key[:-1]))
        first, last = draw(st.sampled_from(NETWORKS[family]))
        key, end = place + fields.packed_address(first), place + fields.packed_address(last)
    else:
        key = draw(some_fields(family, spec.key))
    data: bytes | ex.Decide | None = None
    if spec.data == t.VERDICTS:
        data = draw(VERDICTS)
    elif isinstance(spec.data, tuple):
        data = draw(some_fields(family, spec.data))
    timeout = draw(st.sampled_from((0, 3_600_000))) if spec.dynamic else 0
    return t.Element(key, data, draw(comments), end, timeout)


def some_elements(
    family: Family, spec: t.SetSpec, comments: st.SearchStrategy[str]
) -> st.SearchStrategy[list[t.Element]]:
    return st.lists(some_element(family, spec, comments), min_size=1, max_size=3)


LOADS = tuple(ex.Immediate(bytes(16), register) for register in (0, 4, 8, 12))
"""Write every register."""
COMMENTS = st.sampled_from(("", "default/web:http"))
EXPRESSIONS = st.one_of(
    VERDICTS,
    st.sampled_from(
        (
            ex.Counter(),
            ex.LoadMeta(ex.Meta.PRIORITY, 0),
            ex.Lookup("picks", 0, verdicts=True),
            ex.Lookup("service-ips", 0, to=0),
            ex.Lookup("cluster-ips", 0),
            ex.Lookup("cluster-ips", 0, inverted=True),
            ex.Lookup("cluster-ips", 0, to=1),
            ex.Dynamic(ex.DynamicOperation.UPDATE, "affinity", 0, 8, 600),
            ex.Dynamic(ex.DynamicOperation.DELETE, "affinity", 0, 8),
            ex.DestinationNat(0, 4),
            ex.DestinationNat(0, 4, is_ipv6=True),
            ex.Masquerade(),
            ex.Reject(),
        )
    ),
)


@st.composite
def some_step(draw: st.DrawFn, family: Family) -> t.Change:
    name = draw(st.sampled_from(sorted(SETS)))
    chain = draw(st.sampled_from((*CHAINS, *BASES)))
    kind = draw(st.integers(0, 15))
    match kind:
        case 0:
            return draw(st.sampled_from((t.AddTable(), t.AddTable("of ours"), t.DeleteTable())))
        case 1 | 2:
            base = draw(st.sampled_from((BASES.get(chain), BASES.get(chain), BASES["filter-forward"], None)))
            return t.AddChain(t.Chain(chain, base))
        case 3:
            return t.FlushChain(chain)
        case 4:
            return t.DeleteChain(chain)
        case 5 | 6 | 7:
            loads = draw(st.sampled_from((LOADS, LOADS, LOADS, ())))
            return t.AddRule(t.Rule(chain, (*loads, *draw(st.lists(EXPRESSIONS, max_size=3))), draw(COMMENTS)))
        case 8 | 9:
            return t.AddSet(draw(st.sampled_from((SETS[name], SETS[name], SETS[name], *OTHER_SHAPES))))
        case 10:
            return draw(st.sampled_from((t.FlushSet(name), t.DeleteSet(name))))
        case 11:
            return t.DeleteElements(name, draw(some_elements(family, SETS[name], COMMENTS)))
        case _:
            return t.AddElements(name, draw(some_elements(family, SETS[name], COMMENTS)))


def everything() -> list[t.Change]:
    """Return the steps that make all chains and sets there are."""
    chains = [t.AddChain(t.Chain(name, BASES.get(name))) for name in (*CHAINS, *BASES)]
    return [t.AddTable(), *chains, *(t.AddSet(spec) for spec in SETS.values())]


def some_transactions(family: Family) -> st.SearchStrategy[list[list[t.Change]]]:
    return st.lists(st.lists(some_step(family), min_size=1, max_size=3), min_size=1, max_size=8)


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=150)


@st.composite
def some_contents(draw: st.DrawFn, family: Family) -> list[t.Change]:
    """Return steps that fill the sets, with any comments, each key once."""
    steps: list[t.Change] = []
    for spec in SETS.values():
        elements = draw(st.lists(some_element(family, spec, WORDS), max_size=spec.size or 5))
        once = {(each.key, each.end): each for each in elements if not _leads_astray(each)}
        steps.append(t.AddElements(spec.name, list(once.values())[:2] if spec.size else list(once.values())))
    return steps


def _leads_astray(element: t.Element) -> bool:
    data = element.data
    return isinstance(data, ex.Decide) and data.chain in ("nat-prerouting", "absent")
