"""What nf_tables costs by our own messages: packing, writing, reading, one change; beside nft and the bare kernel.

    PYTHONPATH=$PWD python scripts/benchmarks/nf_tables.py [SERVICES]       # as root; 10,000 without

In a network namespace of its own: a map of places with comments, and one with three endpoints of each. The floors
are the same datagram, ready-made, into an empty table; `nft -f` of the same; and a dump that nobody decodes.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from figures import Row, Size, rows
from namespace import fresh
from report import show

from kubeproxy.kernel.netlink import NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER
from kubeproxy.kernel.nf_tables import fields
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.batch import datagram, encode, transactions
from kubeproxy.kernel.nf_tables.numbers import Message
from kubeproxy.kernel.nf_tables.object_messages import encode_elements_of
from kubeproxy.kernel.nf_tables.socket import BatchSocket
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

NAME = "benchmark"
PLACE = (t.Field.ADDRESS, t.Field.PROTOCOL, t.Field.PORT)
SETS = (
    t.SetSpec(name="classes", key=PLACE, data=(t.Field.CLASS,)),
    t.SetSpec(name="endpoints", key=(*PLACE, t.Field.SLOT), data=(t.Field.ADDRESS, t.Field.PORT)),
)
ENDPOINTS, ROUNDS, CHANGES = 3, 5, 200
CLASS = 0x6B000003


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def elements(number: int) -> tuple[t.Element, list[t.Element]]:
    """Return the elements of one Service."""
    place = fields.place(address(number), Protocol.TCP, 80)
    slots = range(ENDPOINTS)
    found = [t.Element(place + fields.number(i), fields.endpoint(address(number + i), 8080)) for i in slots]
    return t.Element(place, fields.number(CLASS), f"namespace-{number % 50}/service-{number}:http"), found


def load(services: int) -> list[t.Change]:
    both = [elements(number) for number in range(services)]
    classes, endpoints = [each for each, _ in both], [each for _, found in both for each in found]
    made = [t.AddTable(), *(t.AddSet(spec) for spec in SETS)]
    return [*made, t.AddElements("classes", classes), t.AddElements("endpoints", endpoints)]


def words(services: int) -> Iterator[str]:
    """Yield the same for nft."""
    yield f"table ip {NAME} {{\n"
    yield "map classes { typeof ip daddr . meta l4proto . th dport : meta priority; }\n"
    key = "ip daddr . meta l4proto . th dport . numgen random mod 2"
    yield f"map endpoints {{ typeof {key} : ip daddr . th dport; }}\n}}\n"
    for number in range(services):
        place = f"{address(number)} . tcp . 80"
        comment = f'comment "namespace-{number % 50}/service-{number}:http"'
        yield f"add element ip {NAME} classes {{ {place} {comment} : 6b00:3 }}\n"
        slots = (f"{place} . {i} : {address(number + i)} . 8080" for i in range(ENDPOINTS))
        yield f"add element ip {NAME} endpoints {{ {', '.join(slots)} }}\n"


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measured(services: int) -> Iterator[Row]:
    size, steps, text = Size(services, ENDPOINTS), load(services), "".join(words(services))
    table = KernelTable(Family.V4, NAME)

    def packed() -> bytes:
        (parts,) = transactions(encode(Family.V4, NAME, steps), 1 << 30)
        return datagram(parts, 1)

    def raw(sent: bytes) -> None:
        with BatchSocket() as netlink:
            netlink.transact(sent, 1, len(steps))

    def by_nft(commands: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)

    def emptied(work: Callable[[], object]) -> float:
        seconds = timed(work)
        table.commit([t.DeleteTable()])
        return seconds

    ready = packed()
    packing = [timed(packed) for _ in range(ROUNDS)]
    ours = [emptied(lambda: table.commit(steps)) for _ in range(ROUNDS)]
    alone = [emptied(lambda: raw(ready)) for _ in range(ROUNDS)]
    program = [emptied(lambda: by_nft(text)) for _ in range(2)]
    yield from rows(
        "load, from values to the kernel", "netlink", size, ours, {"the datagram": alone, "nft -f": program}
    )
    yield from rows("packing alone", "netlink", size, packing, {"the load": ours})

    table.commit(steps)
    reading = [timed(lambda: [list(table.elements(spec.name)) for spec in SETS]) for _ in range(ROUNDS)]
    dumps = [timed(dumped) for _ in range(ROUNDS)]
    listing = [timed(lambda: subprocess.run(["nft", "list", "ruleset"], check=True, stdout=subprocess.DEVNULL))]
    yield from rows("reading all elements", "netlink", size, reading, {"the dump": dumps, "nft list": listing})

    later = [elements(number) for number in range(services, services + CHANGES)]
    small = [[t.AddElements("classes", [one]), t.AddElements("endpoints", more)] for one, more in later]
    changes = [timed(lambda each=each: table.commit(each)) for each in small]
    places = (f"10.255.0.{number} . tcp . 80" for number in range(10))
    spoken = [f"add element ip {NAME} classes {{ {place} : 6b00:3 }}\n" for place in places]
    program = [timed(lambda each=each: by_nft(each)) for each in spoken]
    yield from rows("one Service added", "netlink", size, changes, {"nft -f": program})


def dumped() -> None:
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        for spec in SETS:
            list(netlink.dump(Message.GET_ELEMENTS, encode_elements_of(Family.V4, NAME, spec.name)))


if __name__ == "__main__":
    fresh()
    show(measured(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
