"""The steps of a full sync in pieces: whose each is, and where a transaction may end if one cannot hold all. Pure.

Root's sockets send whatever there is. In a user namespace a datagram has no more than net.core.wmem_max says,
416 KiB by default: fewer endpoints than one Service may have.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from kubeproxy.kernel.nf_tables.types import AddElements, Change, DeleteElements, Split
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Record

T = TypeVar("T")

PORTS_A_PIECE = 500
"""Service ports between which no transaction ends, unless that does not do either."""
MOST_ELEMENTS = 1_000
"""Of a step in a piece that may be divided; one takes 50 bytes, with a comment 200."""


class Piece(Record, frozen=True):
    """Steps that belong together."""

    owner: ServicePortName | None
    """Whose they are, when they are one port's."""
    steps: list[Change]


def chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of at most so many."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def divided(steps: Iterable[Change]) -> list[Change]:
    """Return steps of which those of many elements are parted.

    Sets with many elements come first: what leads packets there is in another set, or is gone already.
    """
    given = list(steps)
    moving = [step for step in given if isinstance(step, AddElements | DeleteElements)]
    large = {step.set for step in moving if len(step.elements) > MOST_ELEMENTS}
    if not large:
        return given
    parted: list[Change] = []
    for step in moving:
        if step.set in large:
            for some in chunks(step.elements, MOST_ELEMENTS):
                parted += [type(step)(step.set, some), Split()]
    others = [step for step in given if not (isinstance(step, AddElements | DeleteElements) and step.set in large)]
    return [*parted, *others]


def steps_of(pieces: Iterable[Piece]) -> list[Change]:
    """Return the steps of pieces, between any two of which a transaction may end."""
    return [step for piece in pieces for step in (*piece.steps, Split())]


def owner_of(pieces: Iterable[Piece], index: int | None) -> ServicePortName | None:
    """Return whose step has this number among those of `steps_of`; None when it is nobody's alone."""
    if index is None:
        return None
    for piece in pieces:
        if index < len(piece.steps):
            return piece.owner
        index -= len(piece.steps) + 1  # what may be split there is counted too
    return None
