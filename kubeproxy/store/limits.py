"""What a request to a store may hold: etcd's own rules and numbers, checked before anything is read or written.

An engine of ours calls these; a real etcd applies the same rules itself and answers with the same words.
"""

from collections.abc import Iterator
from itertools import chain

from kubeproxy.store.base import Compare, Delete, Operation, Put, Range, Refused, Target

MAX_TXN_OPERATIONS = 128
MAX_REQUEST_BYTES = 1_572_864
"""1.5 MiB for all keys and values of a transaction, as etcd's --max-request-bytes."""
MAX_LEASE_TTL = 9_000_000_000
MIN_LEASE_TTL = 2
"""etcd's with its default election timeout: a shorter lease could expire while a leader is elected."""
_INT64 = range(-(2**63), 2**63)

TOO_LARGE = "request is too large"
EMPTY_KEY = "key is not provided"
DUPLICATE_KEY = "duplicate key given in txn request"


def check_range(request: Range) -> None:
    """Refuse a read of no key, or of numbers that are none of the field's."""
    _check_key(request.key)
    _check_int64(request.revision, request.limit)


def check_txn(
    compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...]
) -> None:
    """Refuse a transaction that is too large, names no key, or writes a key twice in one branch."""
    if max(len(compare), len(success), len(failure)) > MAX_TXN_OPERATIONS:
        raise Refused(f"too many operations in txn request (at most {MAX_TXN_OPERATIONS})")
    if _size(compare, success, failure) > MAX_REQUEST_BYTES:
        raise Refused(f"{TOO_LARGE} (at most {MAX_REQUEST_BYTES} bytes)")
    for condition in compare:
        _check_compare(condition)
    for branch in (success, failure):
        for operation in branch:
            _check_operation(operation)
        _check_written_once(branch)


def check_lease(lease_id: int, ttl: int) -> None:
    """Refuse a lease id or a duration that no lease can have."""
    _check_int64(lease_id, ttl)
    if ttl > MAX_LEASE_TTL:
        raise Refused(f"too large lease TTL (at most {MAX_LEASE_TTL} seconds)")


def check_watch(key: bytes, range_end: bytes, start_revision: int) -> None:
    """Refuse a watch of no key, of a range that can hold none, or from no revision."""
    _check_key(key)
    if range_end not in (b"", b"\0") and range_end <= key:
        raise Refused("watcher range is empty")
    _check_int64(start_revision)


def covers(key: bytes, range_end: bytes, candidate: bytes) -> bool:
    """Say whether the range (key, range_end), in etcd's notation, holds ``candidate``."""
    if not range_end:
        return candidate == key
    return key <= candidate and (range_end == b"\0" or candidate < range_end)


def _check_key(key: bytes) -> None:
    if not key:
        raise Refused(EMPTY_KEY)


def _check_int64(*numbers: int) -> None:
    for number in numbers:
        if number not in _INT64:
            raise Refused(f"{number} is not a 64-bit integer")


def _check_compare(condition: Compare) -> None:
    _check_key(condition.key)
    wanted = bytes if condition.target is Target.VALUE else int
    if not isinstance(condition.value, wanted):
        raise Refused(f"a compare of {condition.target} needs {wanted.__name__}")
    if isinstance(condition.value, int):
        _check_int64(condition.value)


def _check_operation(operation: Operation) -> None:
    match operation:
        case Range():
            check_range(operation)
        case Put():
            _check_key(operation.key)
            _check_int64(operation.lease)
        case Delete():
            _check_key(operation.key)


def _check_written_once(branch: tuple[Operation, ...]) -> None:
    """Two deletes may overlap (the second finds nothing); a put may meet neither a put nor a delete."""
    puts = [operation.key for operation in branch if isinstance(operation, Put)]
    if len(set(puts)) < len(puts):
        raise Refused(DUPLICATE_KEY)
    for operation in branch:
        if isinstance(operation, Delete) and any(covers(operation.key, operation.range_end, key) for key in puts):
            raise Refused(DUPLICATE_KEY)


def _size(compare: tuple[Compare, ...], success: tuple[Operation, ...], failure: tuple[Operation, ...]) -> int:
    return sum(len(part) for part in chain(_compared(compare), _written(success), _written(failure)))


def _compared(compare: tuple[Compare, ...]) -> Iterator[bytes]:
    for condition in compare:
        yield condition.key
        if isinstance(condition.value, bytes):
            yield condition.value


def _written(branch: tuple[Operation, ...]) -> Iterator[bytes]:
    for operation in branch:
        yield operation.key
        if isinstance(operation, Put):
            yield operation.value
