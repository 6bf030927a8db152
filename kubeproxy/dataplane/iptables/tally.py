"""How many rules of ours stand in each table, and how many the last restore wrote. Pure.

Counted where the text is made, so it costs no look into the kernel: fixed rules and jumps, and what each Service
port's fragment has. A full restore counts anew; a partial one adds what has come and takes off what has gone.
"""

from collections.abc import Iterable

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.dataplane.iptables.render import Fragment
from kubeproxy.dataplane.iptables.tables import JUMPS

_FIXED_JUMPS = {table: sum(jump.table == table for jump in JUMPS) for table in ("nat", "filter")}


class Tally:
    """Counts one restore; `after` gives what then stands."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._written = {"nat": 0, "filter": 0}
        self._delta = {"nat": 0, "filter": 0}

    def wrote(self, table: str, lines: str) -> None:
        """Count lines of a Service port that are written."""
        self._written[table] += _rules_in(lines)

    def fixed(self, table: str, lines: str) -> None:
        """Count the lines that a full restore writes whatever the Services are."""
        self._written[table] += _rules_in(lines)
        self._delta[table] += _rules_in(lines) + _FIXED_JUMPS[table]

    def fragment(self, before: Fragment, after: Fragment) -> None:
        """Count what a Service port's rules become."""
        for fragment, sign in ((before, -1), (after, 1)):
            self._delta["nat"] += sign * (_rules_in(fragment.body) + len(fragment.nat_rules))
            self._delta["filter"] += sign * len(fragment.filter_rules)

    def after(self, before: Iterable[RuleCount]) -> tuple[RuleCount, ...]:
        """Return what stands when ``before`` stood before."""
        stood = {} if self._full else {each.table: each.standing for each in before}
        return tuple(
            RuleCount(table=table, standing=stood.get(table, 0) + change, written=self._written[table])
            for table, change in self._delta.items()
        )


def _rules_in(lines: str) -> int:
    """Count the lines that add a rule."""
    return lines.count("\n-A ") + lines.count("\n-I ") + lines.startswith(("-A ", "-I "))
