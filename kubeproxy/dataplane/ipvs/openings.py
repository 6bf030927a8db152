"""How often somebody began to listen to what others do to the rules: what was done before, nobody has heard of."""

from kubeproxy.kernel.notice_messages import TableNotice


class Openings:
    """See `kernel.notices.Journal`; keeps no changes, as a full sync puts them right. The event loop counts."""

    def __init__(self) -> None:
        self.times_opened = 0

    def opened(self) -> None:
        """See `Journal.opened`."""
        self.times_opened += 1

    def closed(self) -> None:
        """See `Journal.closed`."""

    def lost(self) -> None:
        """See `Journal.lost`; the hint says it."""

    def note(self, change: TableNotice) -> None:
        """See `Journal.note`; the hint says it."""

    @property
    def is_full(self) -> bool:
        """See `Journal.is_full`: so no hint waits for the end of a transaction."""
        return True

    def ended(self, generation: int) -> bool:
        """See `Journal.ended`; whether one is missing is not asked: what was lost is told otherwise."""
        return True
