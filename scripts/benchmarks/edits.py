"""What somebody else may do to our state in the kernel, mode by mode, and what the kernel holds of it.

None of it is done as one of the agent's own: through a socket that it does not know, or by the mode's program.
Each turn does it to another Service.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cluster
import msgspec
from figures import Size

from kubeproxy.dataplane.iptables import names as ipt
from kubeproxy.dataplane.nftables import names
from kubeproxy.dataplane.nftables.names import Way
from kubeproxy.dataplane.nftables.phrases import ACCEPT
from kubeproxy.dataplane.nftables.sets import DYNAMIC
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.kernel.netlink_messages import packed_address
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import (
    AddElements,
    AddRule,
    Change,
    DeleteElements,
    DeleteTable,
    Element,
    FlushChain,
    FlushSet,
    Rule,
)
from kubeproxy.model.addresses import Family

NOBODYS = "192.0.2.1"


class Edit(NamedTuple):
    """One of them."""

    what: str
    do: Callable[[int], None]
    """Do it, in this turn's way."""


def in_nftables(family: Family, size: Size) -> Iterator[Edit]:
    """Yield what is done to a table of nf_tables."""
    table, places = KernelTable(family), Way.ADDRESS.value

    def edit(what: str, *steps: Change) -> Edit:
        return Edit(what, lambda turn: _once(table.commit(steps)))

    yield edit("the table deleted", DeleteTable())
    yield edit("one map flushed", FlushSet(places.cluster.endpoints))
    ours = [packed_address(cluster.cluster_ip(size.services - 1 - turn)) for turn in range(min(size.services, 10))]
    found = {each.key[:4]: each for each in table.elements(places.services) if each.key[:4] in ours}
    elements = [found[address] for address in ours]
    strangers = [_moved(each, packed_address(NOBODYS)) for each in elements]
    yield Edit(
        "one element deleted",
        lambda turn: _once(table.commit([DeleteElements(places.services, [elements[turn]])])),
    )
    yield Edit(
        "one element added", lambda turn: _once(table.commit([AddElements(places.services, [strangers[turn]])]))
    )
    yield edit("one rule added", AddRule(Rule(names.SERVICES, (ACCEPT,))))
    yield edit(
        "fixed rules replaced", FlushChain(names.MASQUERADING), AddRule(Rule(names.MASQUERADING, (ACCEPT,)))
    )


def held_in_nftables(family: Family) -> object:
    """Return all that a table holds."""
    table = KernelTable(family)
    elements = {name: frozenset(table.elements(name)) for name in table.sets() if name not in DYNAMIC}
    return elements, {name: table.rules(name) for name in table.chains()}


def in_iptables(flavour: Flavour, size: Size) -> Iterator[Edit]:
    """Yield what is done to iptables' tables."""
    program = f"iptables-{flavour}"
    chains = sorted(set(re.findall(r"^:(KUBE-SVC-\S+)", _output(f"{program}-save", "-t", "nat"), re.MULTILINE)))

    def edit(what: str, line: str) -> Edit:
        return Edit(what, lambda turn: _run(program, "-w", "5", "-t", "nat", *line.split()))

    yield edit("the nat table flushed", "-F")
    yield Edit(
        "one Service's rules flushed", lambda turn: _run(program, "-w", "5", "-t", "nat", "-F", chains[turn])
    )
    yield Edit("one rule deleted", lambda turn: _run(program, "-w", "5", "-t", "nat", "-D", chains[turn], "1"))
    yield Edit(
        "one rule added",
        lambda turn: _run(program, "-w", "5", "-t", "nat", "-I", chains[turn], "-s", NOBODYS, "-j", "RETURN"),
    )
    yield edit("a fixed rule deleted", f"-D {ipt.POSTROUTING} 1")


def held_in_iptables(flavour: Flavour) -> object:
    """Return all rules, sorted: the program may list chains in another order."""
    return sorted(re.findall(r"^-A.*", _output(f"iptables-{flavour}-save"), re.MULTILINE))


def in_ipvs(size: Size) -> Iterator[Edit]:
    """Yield what is done to IPVS' virtual servers, and to the device with their addresses."""
    of = [
        f"{cluster.cluster_ip(size.services - 1 - turn)}:{cluster.PORT}" for turn in range(min(size.services, 10))
    ]
    theirs = [
        f"{cluster.endpoint(size, size.services - 1 - turn, 0)}:{cluster.TARGET_PORT}" for turn in range(len(of))
    ]
    yield Edit("all virtual servers deleted", lambda turn: _run("ipvsadm", "-C"))
    yield Edit("one virtual server deleted", lambda turn: _run("ipvsadm", "-D", "-t", of[turn]))
    yield Edit("the device deleted", lambda turn: _run("ip", "link", "delete", "kube-ipvs0"))
    yield Edit("the nat table flushed", lambda turn: _run("iptables-legacy", "-w", "5", "-t", "nat", "-F"))
    yield Edit("one destination deleted", lambda turn: _run("ipvsadm", "-d", "-t", of[turn], "-r", theirs[turn]))
    yield Edit(
        "one destination added", lambda turn: _run("ipvsadm", "-a", "-t", of[turn], "-r", f"{NOBODYS}:1", "-m")
    )


def held_in_ipvs() -> object:
    """Return all virtual servers and rules, and how many addresses are local."""
    servers = sorted(_output("ipvsadm", "-Sn").splitlines())
    return (
        servers,
        held_in_iptables(Flavour.LEGACY),
        _output("ip", "route", "show", "table", "local").count("kube"),
    )


def _moved(element: Element, address: bytes) -> Element:
    return msgspec.structs.replace(element, key=address + element.key[len(address) :])


def _once(transactions: int) -> None:
    assert transactions == 1


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
