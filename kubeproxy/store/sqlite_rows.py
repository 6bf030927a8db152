"""Reading many rows of the embedded store's log in few calls of SQLite.

Python's sqlite3 lets go of the GIL for each row that it fetches. While the event loop is busy, a thread that wants
it back waits for milliseconds, so that a list of thousands of rows took seconds (docs/architecture.md has the
figures). So SQLite itself puts a page of rows together: each column is one text of numbers or one blob, and a
page takes one call. Blocking functions of the store's one thread.

Two things that SQLite does not promise are not relied on. The order in which ``group_concat`` meets the rows:
callers sort. And that it keeps zero bytes: a page whose blob is not as long as its parts is read row by row.
"""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from kubeproxy.store.base import Event, EventType, KeyValue
from kubeproxy.store.sqlite_file import AT_BITS

PAGE_ROWS = 1000
PAGE_VALUE = 4096
"""A longer value is read apart from its page, so that a page stays below ``PAGE_ROWS`` times this, in bytes."""
GROUP_BYTES = 1 << 20
"""Long values are read together until they are as many bytes; a single one may be longer."""

Row = tuple[bytes, bytes, int, int, int, int]
"""key, value, created, at, version, lease"""

_CURRENT = "current c JOIN log l ON l.at = c.at WHERE"
_NAMED = "(SELECT value AS at FROM json_each(?)) named CROSS JOIN log l ON l.at = named.at"
_PAGE = """
SELECT group_concat(at), group_concat(key_size), group_concat(value_size),
    group_concat(created), group_concat(version), group_concat(lease),
    CAST(group_concat(key, '') AS BLOB), CAST(group_concat(value, '') AS BLOB)
FROM (
    SELECT l.at, length(l.key) AS key_size, l.created, l.version, l.lease, l.key, {value}
    FROM {source}
)
"""
_VALUE = f"length(l.value) AS value_size, iif(length(l.value) <= {PAGE_VALUE}, l.value, NULL) AS value"
_NO_VALUE = "NULL AS value_size, NULL AS value"
_VALUES = f"""
SELECT group_concat(at), group_concat(value_size), CAST(group_concat(value, '') AS BLOB)
FROM (SELECT l.at, length(l.value) AS value_size, l.value FROM {_NAMED})
"""  # noqa: S608
_ROWS = "SELECT l.key, iif(?, l.value, x''), l.created, l.at, l.version, l.lease FROM {}"


def rows_at(db: sqlite3.Connection, positions: Sequence[int], *, values: bool = True) -> list[Row]:
    """Read the log's rows at ``positions``, in no order; what is not there is left out.

    Without ``values`` each is empty.
    """
    found: list[Row] = []
    for start in range(0, len(positions), PAGE_ROWS):
        found += _page(db, _NAMED, (as_json(positions[start : start + PAGE_ROWS]),), values)
    return found


def current_rows(
    db: sqlite3.Connection, where: str, arguments: tuple[object, ...], limit: int, *, values: bool = True
) -> list[Row]:
    """Read the first ``limit`` (below 0: all) living rows, in no order.

    ``where`` compares ``c.key``; the first of its ``arguments`` is the first key that may be found.
    """
    found: list[Row] = []
    while limit < 0 or len(found) < limit:
        wanted = min(PAGE_ROWS, limit - len(found)) if limit >= 0 else PAGE_ROWS
        page = _page(db, f"{_CURRENT} {where} ORDER BY c.key LIMIT ?", (*arguments, wanted), values)
        found += page
        if len(page) < wanted:
            break
        after = max(page)[0] + b"\0"
        arguments = (after, *arguments[1:])
    return found


def numbers(db: sqlite3.Connection, columns: str, rows: str, arguments: tuple[object, ...]) -> list[list[int]]:
    """Run the query ``rows`` and return its integer ``columns`` ("a, b"), in no order, but the same for each."""
    wanted = ", ".join(f"group_concat({column})" for column in columns.split(", "))
    (texts,) = db.execute(f"SELECT {wanted} FROM ({rows})", arguments).fetchall()  # noqa: S608
    return [_numbers(text) for text in texts]


def as_json(positions: Sequence[int]) -> str:
    """Write positions as an argument of SQLite's ``json_each``."""
    return msgspec.json.encode(positions).decode()


def current_row(db: sqlite3.Connection, key: bytes) -> Row | None:
    """Read a living key's row."""
    row: Row | None = db.execute(_ROWS.format(f"{_CURRENT} c.key = ?"), (True, key)).fetchone()
    return row


def key_value(row: Row) -> KeyValue:
    """Return a row as the contract has it."""
    key, value, created, at, version, lease = row
    return KeyValue(
        key=key, value=value, create_revision=created, mod_revision=at >> AT_BITS, version=version, lease=lease
    )


def event(row: Row, old: Row | None) -> Event:
    """Return the change that a row made; ``old`` is what it replaced."""
    return Event(
        type=EventType.PUT if row[4] else EventType.DELETE,
        kv=key_value(row),
        previous=key_value(old) if old else None,
    )


def _page(db: sqlite3.Connection, source: str, arguments: tuple[object, ...], values: bool) -> list[Row]:
    (columns,) = db.execute(
        _PAGE.format(source=source, value=_VALUE if values else _NO_VALUE), arguments
    ).fetchall()
    at, key_sizes, value_sizes, created, version, lease = map(_numbers, columns[:6])
    apart: dict[int, bytes] | None = {}
    if not values:
        value_sizes = [0] * len(at)
    elif max(value_sizes, default=0) > PAGE_VALUE:
        sizes = zip(at, value_sizes, strict=True)
        apart = _long_values(db, {place: size for place, size in sizes if size > PAGE_VALUE})
        value_sizes = [size if size <= PAGE_VALUE else 0 for size in value_sizes]
    keys, parts = _split(columns[6], key_sizes), _split(columns[7], value_sizes)
    if keys is None or parts is None or apart is None:
        return db.execute(_ROWS.format(source), (values, *arguments)).fetchall()
    if apart:
        parts = [apart.get(place, part) for place, part in zip(at, parts, strict=True)]
    return list(zip(keys, parts, created, at, version, lease, strict=True))


def _long_values(db: sqlite3.Connection, sizes: dict[int, int]) -> dict[int, bytes] | None:
    found: dict[int, bytes] = {}
    for group in _groups(sizes):
        (columns,) = db.execute(_VALUES, (as_json(group),)).fetchall()
        values = _split(columns[2], _numbers(columns[1]))
        if values is None:
            return None
        found.update(zip(_numbers(columns[0]), values, strict=True))
    return found


def _groups(sizes: dict[int, int]) -> Iterator[list[int]]:
    group: list[int] = []
    total = 0
    for at, size in sizes.items():
        if group and total + size > GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(at)
        total += size
    if group:
        yield group


def _numbers(text: str | None) -> list[int]:
    return msgspec.json.decode(f"[{text or ''}]", type=list[int])


def _split(blob: bytes | None, sizes: list[int]) -> list[bytes] | None:
    """Cut a blob into its parts; None when it is not as long as they are together."""
    blob = blob or b""
    if sum(sizes) != len(blob):
        return None
    parts, start = [], 0
    for size in sizes:
        parts.append(blob[start : (start := start + size)])
    return parts
