"""How many rules of ours stand in each table, and how many the last restore wrote. Pure.

Counted where the text is made, so it costs no look into the kernel: fixed rules and jumps, what each Service
port's own chains have, and how the chains change that all share. A full restore counts anew; a partial one adds
what has come and takes off what has gone.
"""

from collections.abc import Iterable

from kubeproxy.dataplane.base import RuleCount
from kubeproxy.dataplane.iptables.dispatch import Edit
from kubeproxy.dataplane.iptables.render import Fragment
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

    def own(self, written: Iterable[str], moves: Iterable[tuple[Fragment, Fragment]] = ()) -> None:
        """Count the rules of Service ports' own chains: lines ``written``.

        ``moves``: of a partial restore, what each port had and has; in a full one all that it has is written.
        """
        rules = _appended_in(written)
        self._written["nat"] += rules
        if self._full:
            self._delta["nat"] += rules
        else:
            self._delta["nat"] += sum([_rules_of(after) - _rules_of(before) for before, after in moves])

    def shared(self, table: str, edit: Edit) -> None:
        """Count how a table's shared chains change."""
        self._written[table] += edit.added
        self._delta[table] += edit.added - edit.removed

    def after(self, before: Iterable[RuleCount]) -> tuple[RuleCount, ...]:
        """Return what stands when ``before`` stood before."""
        stood = {} if self._full else {each.table: each.standing for each in before}
        return tuple(
            RuleCount(table=table, standing=stood.get(table, 0) + change, written=self._written[table])
            for table, change in self._delta.items()
        )


def _rules_of(fragment: Fragment) -> int:
    """Count the rules in a Service port's own chains; a page knows how many it has."""
    return _appended_in((fragment.body,)) + sum([page.rules for page in fragment.pages])


def _appended_in(bodies: Iterable[str]) -> int:
    """Count the rules of chains that are written whole: each begins with its declaration."""
    return "".join(bodies).count("\n-A ")


def _rules_in(lines: str) -> int:
    """Count the lines that add a rule."""
    return lines.count("\n-A ") + lines.count("\n-I ") + lines.startswith(("-A ", "-I "))
