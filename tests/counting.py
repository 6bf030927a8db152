"""Texts that count how often they are compared or hashed: a test can bound work by that, and no clock."""


class Meter:
    """Makes such texts, and counts for all of them together."""

    def __init__(self) -> None:
        self.count = 0

    def text(self, value: str) -> str:
        """Return a text like any other, a new object each time: identity would spare the comparison."""
        made = _Metered(value)
        made.meter = self
        return made


class _Metered(str):
    meter: Meter

    def __eq__(self, other: object) -> bool:
        self.meter.count += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        self.meter.count += 1
        return str.__ne__(self, other)

    def __hash__(self) -> int:
        self.meter.count += 1
        return str.__hash__(self)
