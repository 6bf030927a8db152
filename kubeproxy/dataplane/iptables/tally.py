"""How many rules of ours stand in each table, and how many the last restore wrote. Pure.

Counted where the text is made, so it costs no look into the kernel: fixed rules and jumps, and what each Service
port's fragment has. A full restore counts anew; a partial one adds what has come and takes off what has gone.
"""

from collections.abc import Iterable

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.dataplane.iptables.render import NOTHING, Fragment
from kubeproxy.dataplane.iptables.tables import JUMPS

_FIXED_JUMPS = {table: sum(jump.table == table for jump in JUMPS) for table in ("nat", "filter")}


class Tally:
    """Counts one restore; `after` gives what then stands."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._written = {"nat": 0, "filter": 0}
        self._delta = {"nat": 0, "filter": 0}

    def fixed(self, table: str, lines: str) -> None:
        """Count the lines that a full restore writes whatever the Services are."""
        self._written[table] += _rules_in(lines)
        self._delta[table] += _rules_in(lines) + _FIXED_JUMPS[table]

    def port(self, before: Fragment, after: Fragment) -> None:
        """Count what a Service port's rules become: its body is written whole, other rules one by one."""
        body = after.body.count("\n-A ")
        nat, filtered = body + len(after.nat_rules), len(after.filter_rules)
        if before is NOTHING:
            new_nat, new_filtered = nat, filtered
            had_nat = had_filtered = 0
        else:
            had_nat = before.body.count("\n-A ") + len(before.nat_rules)
            had_filtered = len(before.filter_rules)
            new_nat = len(set(after.nat_rules).difference(before.nat_rules))
            new_nat += body if after.body != before.body else 0
            new_filtered = len(set(after.filter_rules).difference(before.filter_rules))
        self._written["nat"] += new_nat
        self._written["filter"] += new_filtered
        self._delta["nat"] += nat - had_nat
        self._delta["filter"] += filtered - had_filtered

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
