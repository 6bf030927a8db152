"""The seam between what a node should do and how a kernel interface is told so.

A backend renders ServiceStates into Fragments (its own words for one Service port), diffs what is wanted
against what it knows it wrote into a Plan, and applies a Plan in one transaction. It also observes whether
its state is still in the kernel, and can remove all of it.

A backend belongs to one worker thread and one IP family. It knows nothing of informers, clocks or retries:
a failure is a `SyncFailed`, after which it does not trust its own memory any more and its next Plan is a
full one; when to try again is the syncer's business.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import msgspec

from kubeproxy.model.desired import ServiceState, Wanted
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Record


class SyncFailed(Exception):
    """Nothing, or not all, of a Plan reached the kernel; the text says what refused and what to do.

    ``culprits`` are the Service ports whose Fragments were refused, when that is known: the backend has put
    them in quarantine, so trying again at once is worthwhile.
    """

    def __init__(self, message: str, culprits: Collection[ServicePortName] = ()) -> None:
        super().__init__(message)
        self.culprits = tuple(culprits)


LacksLocal = tuple[bool, bool]
"""Whether a port's cluster IP, and its traffic from outside, is dropped here: policy Local, and every endpoint is
on another node."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One Service port that differs: None stands for "not there"."""

    name: ServicePortName
    before: ServiceState | None
    after: ServiceState | None


class Plan(msgspec.Struct, frozen=True):
    """The steps from what is written to what is wanted. Its changes can be run through once.

    In a full plan nothing that was written is trusted: every wanted port is among the changes, and what the
    kernel holds beside them is stale.
    """

    full: bool
    node: NodeState
    changes: Iterator[Change]


class RuleCount(Record, frozen=True, kw_only=True):
    """A table of rules after a plan was applied."""

    table: str
    standing: int
    written: int
    """How many of them the plan wrote."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a successful `apply` did, and what stands now."""

    full: bool
    changed: int
    """Service ports written or removed."""
    ports: int
    endpoints: int
    quarantined: Mapping[ServicePortName, str]
    """Ports that are left out, each with the kernel's or the renderer's complaint."""
    notes: Mapping[ServicePortName, str] = {}
    """Ports that are served otherwise than was asked, and why. This and ``quarantined`` are the same objects as
    before when they say the same: a sync pays for what is new (`remarks`)."""
    lacks_local: Mapping[ServicePortName, LacksLocal] = {}
    """Ports of which this differs from before; of a full plan, all of which any of it holds."""
    rules: tuple[RuleCount, ...] = ()
    """By table; none for a backend that has no tables of rules."""


class Repairer(Protocol):
    """What undoes others' changes by what it knows to have written."""

    def repair(self, *, whole: bool) -> bool:
        """Undo what others have changed, by what is known to have been written; return whether that was done.

        Where it was not, a full Plan must do it; where it was, and that may not be all, the backend needs one too.
        Unless the ``whole`` is to be looked at, only what the kernel has told of is undone, and in so few steps
        that nobody need stop listening to it.
        """
        ...


class Backend(Protocol):
    """One way of programming the kernel, for one IP family."""

    def diff(self, wanted: Wanted, scope: Collection[Key] | None) -> Plan | None:
        """Plan the way to ``wanted``, which is all that is wanted of the Services in ``scope``.

        None as a scope means every Service, and nothing written before is trusted; so it must be when the node's
        part differs from the last Plan's. Returns None when there is nothing to do. A backend that has lost track
        takes None only: see ``needs_full``.
        """
        ...

    def apply(self, plan: Plan) -> Applied:
        """Bring a Plan into the kernel, wholly or not at all per table. Raises SyncFailed."""
        ...

    @property
    def needs_full(self) -> bool:
        """Whether the next Plan must be a full one: at the start, after a failure, after drift."""
        ...

    def observe(self) -> str:
        """Return how the kernel's state has drifted from what was written, "" when it has not."""
        ...

    def glance(self) -> str:
        """Return what others may have changed, "" when a question of microseconds shows nothing.

        It is about what the kernel tells of only when it is asked, and makes it worth a look (`observe`). Waits
        for whoever is replacing a table just then, which takes the kernel up to some 0.3 s. Raises nothing.
        """
        ...

    @property
    def repairer(self) -> Repairer | None:
        """What undoes others' changes; None where a full Plan costs no more, or must find out what they are."""
        ...

    def cleanup(self) -> None:
        """Remove all of this backend's state from the kernel, and nothing of anyone else's."""
        ...
