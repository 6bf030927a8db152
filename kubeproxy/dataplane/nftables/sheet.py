"""What some Service ports ask for, and what differs between two such sheets. Pure."""

from kubeproxy.dataplane.nftables.lists import Elements, Listing, move
from kubeproxy.dataplane.nftables.names import Class
from kubeproxy.dataplane.nftables.sets import SPECS


class Sheet:
    """What some ports ask for."""

    __slots__ = ("classes", "elements", "lengths", "lists")

    def __init__(self) -> None:
        self.elements: Elements = {name: [] for name in SPECS}
        """By set; but for those of `lists`, until they are filled in."""
        self.lists: dict[tuple[str, bytes], Listing] = {}
        """Endpoints, by map and place."""
        self.classes: list[Class] = []
        """Of each place."""
        self.lengths: list[int] = []
        """Of source ranges' prefixes, one for each set that a port has some in."""

    def fill_lists(self) -> None:
        """Fill in all endpoints."""
        for listing in self.lists.values():
            listing.fill(self.elements)


def fill_what_moved(before: Sheet, after: Sheet) -> None:
    """Fill in the endpoints that are not the same in both sheets."""
    for key, listing in after.lists.items():
        old = before.lists.get(key)
        if old is None:
            listing.fill(after.elements)
        else:
            move(old, listing, before.elements, after.elements)
    for key, listing in before.lists.items():
        if key not in after.lists:
            listing.fill(before.elements)
