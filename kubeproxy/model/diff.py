"""What differs between two keyed collections: the step between "wanted" and "written" that all parts share."""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Difference(msgspec.Struct, Generic[K, V], frozen=True, kw_only=True):
    """How to get from one keyed collection to another."""

    added: dict[K, V]
    changed: dict[K, tuple[V, V]]
    """The old value and the new one."""
    removed: dict[K, V]

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return bool(self.added or self.changed or self.removed)


def diff(have: Mapping[K, V], want: Mapping[K, V]) -> Difference[K, V]:
    """Compare by equality; cost O(have + want)."""
    return Difference(
        added={key: value for key, value in want.items() if key not in have},
        changed={key: (have[key], value) for key, value in want.items() if key in have and have[key] != value},
        removed={key: value for key, value in have.items() if key not in want},
    )
