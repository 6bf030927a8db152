"""History of an etcd is forgotten after two intervals at most, however many API servers share it.

The protocol is kube-apiserver's (apiserver/pkg/storage/etcd3/compact.go), so that ours and upstream's get along
on one etcd: the version of the key `compact_rev_key` is a logical time. Once an interval each server tries to
move it on from the time that it knows. Who succeeds compacts to the revision that it saw at its last turn; who
does not learns the time and the revision of now, and tries again an interval later. So history lives for one
interval at least, and for two at most, also when a server ends.
"""

import logging

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.store.base import (
    Compacted,
    Compare,
    Put,
    Range,
    RangeResult,
    Store,
    StoreError,
    Target,
    TxnResult,
)

log = logging.getLogger(__name__)

KEY = b"compact_rev_key"


class Turn(msgspec.Struct, frozen=True):
    """What one server knows: the key's version, and the store's revision when it learned it. PURE."""

    time: int = 0
    revision: int = 0

    def attempt(self) -> tuple[tuple[Compare, ...], tuple[Put, ...], tuple[Range, ...]]:
        """Return the transaction that moves the time on."""
        unmoved = Compare(key=KEY, target=Target.VERSION, value=self.time)
        return (unmoved,), (Put(key=KEY, value=b"%d" % self.revision),), (Range(key=KEY),)

    def after(self, answer: TxnResult) -> tuple["Turn", int]:
        """Return what is known now, and the revision to compact to (0: nothing, it is another's turn)."""
        if answer.succeeded:
            return Turn(self.time + 1, answer.revision), self.revision
        found = answer.results[0]
        held = found.kvs if isinstance(found, RangeResult) else ()
        return Turn(held[0].version if held else 0, answer.revision), 0


async def compact_regularly(store: Store, clock: Clock, interval: float) -> None:
    """Take part every ``interval`` seconds until cancelled; a failure is told once and tried again."""
    turn, failing = Turn(), False
    while True:
        await clock.sleep(interval)
        try:
            turn, target = turn.after(await store.txn(*turn.attempt()))
            if target:
                await store.compact(target)
                log.debug("compacted the store's history before revision %d", target)
            failing = False
        except Compacted:
            failing = False  # By an operator, or by etcd's own --auto-compaction.
        except StoreError as error:
            if not failing:
                log.error("etcd's history is not compacted and its file grows; trying again: %s", error)
            failing = True
