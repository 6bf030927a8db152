"""Files of comma-separated credentials, a line each: strict, for what is read wrongly gives rights away. Pure."""

import csv
from collections.abc import Iterator


def csv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are neither empty nor a comment, with their numbers.

    A field ends on its line: a quote that is not closed would make the lines after it, with their groups, a part
    of this one. Raises ValueError, which names the line and shows nothing of it.
    """
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            row = next(csv.reader([line], skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise ValueError(f"line {number}: {error}") from None
        if not all(map(str.isprintable, row)):
            raise ValueError(f"line {number}: a character that cannot be printed")
        yield number, row
