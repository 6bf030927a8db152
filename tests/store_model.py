"""A second, naive implementation of the store's semantics: what the engines are compared with.

It keeps every state of every key in plain dicts and answers from them; no cleverness to be wrong in.
"""

from dataclasses import dataclass, field

from kubeproxy.store.base import (
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    Event,
    EventType,
    FutureRevision,
    KeyValue,
    LeaseNotFound,
    Operation,
    OperationResult,
    Operator,
    Put,
    PutResult,
    Range,
    RangeResult,
    Refused,
    Target,
    TxnResult,
)

State = dict[bytes, KeyValue]


def inside(key: bytes, range_end: bytes, candidate: bytes) -> bool:
    if range_end == b"":
        return candidate == key
    return candidate >= key and (range_end == b"\0" or candidate < range_end)


@dataclass
class Model:
    """``states[i]`` is the store at revision ``base + i``; ``events`` are all changes in order."""

    base: int
    compacted: int
    states: list[State] = field(default_factory=lambda: [{}])
    events: list[Event] = field(default_factory=list)
    leases: dict[int, tuple[int, float]] = field(default_factory=dict)
    now: float = 0.0

    @property
    def revision(self) -> int:
        return self.base + len(self.states) - 1

    def range(self, request: Range, pending: State | None = None, changed: bool = False) -> RangeResult:
        if request.revision > self.revision:
            raise FutureRevision
        if 0 < request.revision < self.compacted:
            raise Compacted(self.compacted)
        state = pending if pending is not None else self.states[-1]
        if request.revision > 0:
            state = self.states[max(request.revision - self.base, 0)]
        found = [state[key] for key in sorted(state) if inside(request.key, request.range_end, key)]
        shown = [] if request.count_only else found[: request.limit or None]
        return RangeResult(
            revision=self.revision + changed,
            kvs=tuple(_without_value(kv) if request.keys_only else kv for kv in shown),
            count=len(found),
            more=not request.count_only and len(shown) < len(found),
        )

    def txn(
        self, compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...]
    ) -> TxnResult:
        for branch in (success, failure):
            _check(branch)
        succeeded = all(self._holds(condition) for condition in compare)
        branch = success if succeeded else failure
        for operation in branch:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self.leases:
                raise LeaseNotFound
        for operation in branch:
            if isinstance(operation, Range):
                self.range(operation)
        state, events = dict(self.states[-1]), list[Event]()
        results = tuple(self._run(operation, state, events) for operation in branch)
        self._commit(state, events)
        return TxnResult(revision=self.revision, succeeded=succeeded, results=results)

    def _run(self, operation: Operation, state: State, events: list[Event]) -> OperationResult:
        match operation:
            case Range():
                return self.range(operation, state, bool(events))
            case Put(key=key, value=value, lease=lease):
                old = state.get(key)
                state[key] = KeyValue(
                    key=key,
                    value=value,
                    create_revision=old.create_revision if old else self.revision + 1,
                    mod_revision=self.revision + 1,
                    version=old.version + 1 if old else 1,
                    lease=lease,
                )
                events.append(Event(type=EventType.PUT, kv=state[key], previous=old))
                return PutResult(previous=old)
            case Delete(key=key, range_end=range_end):
                gone = [name for name in sorted(state) if inside(key, range_end, name)]
                return DeleteResult(previous=tuple(self._remove(name, state, events) for name in gone))

    def _remove(self, key: bytes, state: State, events: list[Event]) -> KeyValue:
        old = state.pop(key)
        grave = KeyValue(key=key, value=b"", create_revision=0, mod_revision=self.revision + 1, version=0)
        events.append(Event(type=EventType.DELETE, kv=grave, previous=old))
        return old

    def _commit(self, state: State, events: list[Event]) -> None:
        if events:
            self.states.append(state)
            self.events += events

    def _holds(self, compare: Compare) -> bool:
        kv = self.states[-1].get(compare.key)
        if compare.target is Target.VALUE and kv is None:
            return False
        name = {Target.CREATE: "create_revision", Target.MOD: "mod_revision"}.get(compare.target)
        held = getattr(kv, name or compare.target.lower()) if kv else 0
        return {
            Operator.EQUAL: held == compare.value,
            Operator.NOT_EQUAL: held != compare.value,
            Operator.GREATER: held > compare.value,
            Operator.LESS: held < compare.value,
        }[compare.operator]

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Compacted(self.compacted)
        if revision > self.revision:
            raise FutureRevision
        self.compacted = revision

    def lease_grant(self, ttl: int, lease_id: int) -> None:
        self.leases[lease_id] = (ttl, self.now + ttl)

    def lease_keep_alive(self, lease_id: int) -> int:
        if lease_id not in self.leases:
            raise LeaseNotFound
        ttl = self.leases[lease_id][0]
        self.leases[lease_id] = (ttl, self.now + ttl)
        return ttl

    def lease_revoke(self, lease_id: int) -> None:
        if lease_id not in self.leases:
            raise LeaseNotFound
        del self.leases[lease_id]
        state, events = dict(self.states[-1]), list[Event]()
        for key in sorted(key for key, kv in state.items() if kv.lease == lease_id):
            self._remove(key, state, events)
        self._commit(state, events)

    def lease_keys(self, lease_id: int) -> tuple[bytes, ...]:
        return tuple(sorted(key for key, kv in self.states[-1].items() if kv.lease == lease_id))

    def step(self, seconds: float) -> None:
        self.now += seconds
        for end, lease_id in sorted((end, lease_id) for lease_id, (_, end) in self.leases.items()):
            if end <= self.now:
                self.lease_revoke(lease_id)


def _check(branch: tuple[Operation, ...]) -> None:
    written = [operation for operation in branch if isinstance(operation, Put | Delete)]
    for at, one in enumerate(written):
        for other in written[at + 1 :]:
            match one, other:
                case (Put(), Put()) if one.key == other.key:
                    raise Refused
                case (Put(), Delete()) if inside(other.key, other.range_end, one.key):
                    raise Refused
                case (Delete(), Put()) if inside(one.key, one.range_end, other.key):
                    raise Refused


def _without_value(kv: KeyValue) -> KeyValue:
    return KeyValue(
        key=kv.key,
        value=b"",
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )
