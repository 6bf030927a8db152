"""Pages of rows: whatever bytes and sizes they hold, and few calls of SQLite for many of them."""

import random
import sqlite3
from collections.abc import Iterator

import pytest

from kubeproxy.store import sqlite_rows
from kubeproxy.store.base import Event, Put, Range
from kubeproxy.store.sqlite_engine import BATCH_EVENTS, Engine
from kubeproxy.store.sqlite_file import MEMORY, StoreFile
from kubeproxy.store.sqlite_rows import GROUP_BYTES, PAGE_ROWS, PAGE_VALUE, rows_at

pytestmark = pytest.mark.unit

EVERYTHING = {"key": b"\0", "range_end": b"\0"}
AWKWARD = [
    b"",
    b"\0",
    b"\0\0after",
    bytes(range(256)),
    b"\xff\xfe\xc0",
    "žluť".encode("utf-16"),
    b"x" * PAGE_VALUE,
    b"\0" * (PAGE_VALUE + 1),
    b"y" * (PAGE_VALUE + 1),
    random.Random(1).randbytes(3 * PAGE_VALUE),
]


@pytest.fixture
def file() -> Iterator[StoreFile]:
    opened = StoreFile(MEMORY)
    yield opened
    opened.close()


@pytest.fixture
def engine(file: StoreFile) -> Engine:
    return Engine(file.db, lambda _revision, _events: None, 0.0)


def filled(engine: Engine, values: list[bytes]) -> dict[bytes, bytes]:
    held = {b"\0\xff%05d" % n + value[:20]: value for n, value in enumerate(values)}
    for key, value in held.items():
        engine.txn((), (Put(key=key, value=value),), ())
    return held


def read(engine: Engine, **how: object) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in engine.range(Range(**EVERYTHING, **how)).kvs}


@pytest.mark.parametrize("revision", [0, 1 + len(AWKWARD)])
def test_any_bytes_of_any_size(engine: Engine, revision: int) -> None:
    held = filled(engine, AWKWARD)
    engine.txn((), (Put(key=b"later", value=b""),), ())
    found = engine.range(Range(**EVERYTHING, revision=revision))
    assert [kv.key for kv in found.kvs if kv.key != b"later"] == sorted(held)
    assert {kv.key: kv.value for kv in found.kvs if kv.key != b"later"} == held
    _, events = engine.events(b"\0", b"\0", 2)
    assert {event.kv.key: event.kv.value for event in events if event.kv.key != b"later"} == held


def test_more_rows_than_a_page_has(engine: Engine) -> None:
    held = filled(engine, [b"%d" % n for n in range(2 * PAGE_ROWS + 1)])
    assert list(read(engine)) == sorted(held)
    assert list(read(engine, limit=PAGE_ROWS + 1)) == sorted(held)[: PAGE_ROWS + 1]
    assert read(engine, keys_only=True) == dict.fromkeys(held, b"")


def test_long_values_are_read_in_bounded_groups(file: StoreFile, engine: Engine) -> None:
    size = GROUP_BYTES // 4 + 1
    held = filled(engine, [bytes([n]) * size for n in range(7)])
    largest = GROUP_BYTES + 1000
    file.db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, largest)  # What SQLite puts together fails beyond it.
    assert read(engine) == held


@pytest.mark.parametrize("name", ["_PAGE", "_VALUES"])
def test_a_sqlite_that_ends_texts_at_a_zero_byte(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As versions before 3.39 might: the rows are then read one by one."""
    held = filled(engine, AWKWARD)
    cut = getattr(sqlite_rows, name).replace("CAST(group_concat(value, '') AS BLOB)", "x''")
    monkeypatch.setattr(sqlite_rows, name, cut)
    assert read(engine) == held


def test_what_is_not_there_is_left_out(file: StoreFile, engine: Engine) -> None:
    filled(engine, [b"1"])
    ((at,),) = file.db.execute("SELECT at FROM log").fetchall()
    assert [row[3] for row in rows_at(file.db, [at, at + 1])] == [at]
    assert rows_at(file.db, []) == []


def test_deleting_many_keys_is_one_revision_in_their_order(file: StoreFile, engine: Engine) -> None:
    lease = engine.lease_grant(60, 0, 0.0).id
    count = 3 * BATCH_EVENTS
    for n in range(count):
        engine.txn((), (Put(key=b"%05d" % n, value=b"%d" % n, lease=lease),), ())
    start = engine.revision
    engine.lease_revoke(lease)
    engine.txn((), (Put(key=b"last", value=b""),), ())
    through, events = engine.events(b"\0", b"\0", start + 1)
    assert through == start + 1  # A batch never ends inside a revision.
    assert [event.kv.key for event in events] == [b"%05d" % n for n in range(count)]
    assert [previous(event) for event in events] == [b"%d" % n for n in range(count)]
    assert list(read(engine)) == [b"last"]


def test_few_calls_whatever_the_number_of_rows(file: StoreFile, engine: Engine) -> None:
    """Each row that Python fetches costs milliseconds while the event loop is busy."""
    filled(engine, [b"x"] * 900)
    fetched = 0

    def counted(_cursor: sqlite3.Cursor, row: tuple[object, ...]) -> tuple[object, ...]:
        nonlocal fetched
        fetched += 1
        return row

    file.db.row_factory = counted
    assert len(read(engine)) == 900
    assert len(engine.events(b"\0", b"\0", 2)[1]) == BATCH_EVENTS
    assert fetched <= 5


def previous(event: Event) -> bytes:
    assert event.previous is not None
    return event.previous.value
