"""From what others have changed, as the kernel told it, to the steps that undo just that. Pure.

Nothing is read for it: the kernel has told how each thing is now. Should one have changed once more meanwhile, it
refuses a step (what is to go is not there, what is to come is there and another), and nothing is done.
"""

from collections.abc import Collection, Iterable, Iterator

from kubeproxy.dataplane.nftables.books import Books
from kubeproxy.dataplane.nftables.edits import Edits
from kubeproxy.dataplane.nftables.layout import CHAINS
from kubeproxy.dataplane.nftables.sets import spec_named
from kubeproxy.dataplane.nftables.sheet import Sheet
from kubeproxy.dataplane.nftables.survey import Correction, Strangers, Survey
from kubeproxy.kernel.netlink_messages import address_text
from kubeproxy.kernel.nf_tables.fields import node_port
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddRule,
    Chain,
    Change,
    DeleteChain,
    DeleteSet,
    Field,
    FlushChain,
)
from kubeproxy.model.desired import ServiceState

_NODE_PORT_BYTES = 8


def can_be_undone(edits: Edits, books: Books, unneeded: Collection[str]) -> bool:
    """Return whether that can be told without a look; ``unneeded``: chains that are still to be deleted.

    A chain that came may be one of ours: of one that is renamed the kernel tells the new name alone. Has it a
    stranger's name, that does not matter but of base chains: something leads to ours, and the kernel refuses to
    delete what something leads to. Has it one of ours (of a chain made since, too), what led to the old one leads
    there.
    """
    if edits.is_beyond or not books.set_names().isdisjoint(edits.sets):
        return False
    ours = books.chain_names()
    stand = {name for name, stands in edits.chains.items() if stands}
    if not edits.base_chains <= ours or not stand & ours <= edits.base_chains:
        return False
    chains = edits.rules | edits.chains.keys()
    return chains.isdisjoint(unneeded) and edits.rules <= ours | edits.chains.keys()


def asking(edits: Edits, books: Books, states: Iterable[ServiceState]) -> Iterator[ServiceState]:
    """Yield those of the states, and few others, that ask for elements which others have changed.

    Cost: 0.3 µs a state, where rendering it is 9.
    """
    addresses: set[str] = set()
    node_ports: set[bytes] = set()
    endpoints: set[str] = set()
    size = books.family.host_bits // 8
    for name in edits.elements.keys() & books.set_names():
        spec = spec_named(name)
        assert spec is not None
        keys, first = edits.elements[name], spec.key[0]
        if first is Field.PROTOCOL:
            node_ports.update(key[:_NODE_PORT_BYTES] for key in keys)
        elif first is not Field.CLASS:  # which belong to no port
            found = endpoints if first is Field.SOURCE else addresses
            found.update(address_text(key[:size]) for key in keys)
    if not (addresses or node_ports or endpoints):
        return
    for state in states:
        if (
            state.cluster_ip in addresses
            or not addresses.isdisjoint(state.external_ips)
            or not addresses.isdisjoint(state.load_balancer_ips)
            or (state.node_port and node_port(state.name.protocol, state.node_port) in node_ports)
            or (endpoints and any(target.address in endpoints for target in state.nearby))
        ):
            yield state


def undoing(edits: Edits, books: Books, asking: Iterable[ServiceState]) -> Iterator[Change]:
    """Yield the steps; ``asking``: the states that ask for what was changed, whoever else among them."""
    yield from _chains(edits, books)
    yield from _elements(edits, books, asking)
    chains = [name for name, stands in edits.chains.items() if stands and name not in books.chain_names()]
    yield from map(FlushChain, chains)
    yield from _without(chains, [name for name, stands in edits.sets.items() if stands])


def rebuilding(
    found: Survey, besides: Strangers, books: Books, states: Iterable[ServiceState]
) -> Iterator[Change]:
    """Yield the steps from all that is in the table to what should be; ``states``: those of all ports."""
    # Their rules first: sets of ours that nobody needs may be asked there.
    yield from map(FlushChain, sorted(besides.chains | found.chains - books.chain_names()))
    yield from books.rebuilding(found, states)
    yield from _without(sorted(besides.chains), sorted(besides.sets))


def _without(chains: Iterable[str], sets: Iterable[str]) -> Iterator[Change]:
    """Delete chains that are empty and sets that no rule asks: sets first, as some lead to chains."""
    yield from map(DeleteSet, sets)
    yield from map(DeleteChain, chains)


def _chains(edits: Edits, books: Books) -> Iterator[Change]:
    """Make ours as they should be: all chains first, as rules lead to them."""
    rules = books.rules()
    ours = sorted((edits.rules | edits.chains.keys()) & rules.keys())
    for name in ours:
        if name in edits.chains:
            yield AddChain(CHAINS.get(name) or Chain(name))
    for name in ours:
        yield FlushChain(name)
        for rule in rules[name]:
            yield AddRule(rule)


def _elements(edits: Edits, books: Books, asking: Iterable[ServiceState]) -> Iterator[Change]:
    told = {name: known for name, known in edits.elements.items() if name in books.set_names()}
    if not told:
        return
    wanted = books.standing(asking)
    asked = Sheet()
    for name, known in told.items():
        asked.elements[name] = [each for each in wanted.elements.get(name, ()) if each.key in known]
    there = {name: {key: each for key, each in known.items() if each is not None} for name, known in told.items()}
    correction = Correction(Survey(stands=True, elements=there))
    yield from correction.towards(asked)
    yield from correction.rest()
