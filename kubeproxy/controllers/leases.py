"""Who may act: the decision of leader election over a coordination.k8s.io/v1 Lease. Pure.

The protocol is client-go's (tools/leaderelection). A candidate never compares the holder's clock with its own:
what counts is when *it* saw the record change last. A record that has not changed for as long as it says is free
to be taken. So clocks may be hours apart and may jump; only their pace matters.
"""

from typing import Any

import msgspec

from kubeproxy.controllers.objects import Shape


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; the defaults are kube-controller-manager's."""

    lease_duration: float = 15.0
    """How long others wait after the last change that they saw."""
    renew_deadline: float = 10.0
    """How long a holder acts after its last renewal: less than others wait, so that it has stopped by then."""
    retry_period: float = 2.0


class Record(Shape, frozen=True, kw_only=True):
    """spec of a Lease. Times are for people: no decision reads them."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Observed(msgspec.Struct, frozen=True):
    """A record, and when this process saw it first, in its own monotonic seconds."""

    record: Record
    at: float


def record_of(lease: dict[str, Any]) -> Record:
    """Return a Lease's spec; one that is no spec counts as held by nobody."""
    try:
        return msgspec.convert(lease.get("spec") or {}, Record)
    except msgspec.ValidationError:
        return Record()


def observe(before: Observed | None, record: Record, now: float) -> Observed:
    """Take in what was read: a record that did not change is as old as it was."""
    return before if before is not None and before.record == record else Observed(record, now)


def is_taken(seen: Observed, identity: str, now: float, timings: Timings) -> bool:
    """Say whether somebody else holds the lease still."""
    holder = seen.record.holder_identity
    if not holder or holder == identity:
        return False
    lasts = seen.record.lease_duration_seconds or timings.lease_duration
    return now < seen.at + lasts


def claim(seen: Observed | None, identity: str, time: str, timings: Timings) -> Record:
    """Return the record that takes the lease or, held already, renews it; ``time`` is the wall clock's."""
    before = seen.record if seen is not None else None
    mine = before is not None and before.holder_identity == identity
    transitions = (before.lease_transitions or 0) if before is not None else 0
    return Record(
        holder_identity=identity,
        lease_duration_seconds=int(timings.lease_duration),
        acquire_time=before.acquire_time if before is not None and mine else time,
        renew_time=time,
        lease_transitions=transitions if before is None or mine else transitions + 1,
    )


def release(seen: Observed, time: str) -> Record:
    """Return the record that lets the next candidate take over at once."""
    return Record(
        holder_identity="",
        lease_duration_seconds=1,
        acquire_time=time,
        renew_time=time,
        lease_transitions=seen.record.lease_transitions,
    )
