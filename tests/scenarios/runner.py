"""Runs the scenario table in one mode with real packets. No pytest in here: another kernel's process can call it.

    python -m tests.scenarios.runner iptables-legacy [WORDS OF A ROW'S NAME]

Rows of one site are programmed together, in one sync a step, and everything about them is asked at once, by a
crowd of threads: an answer takes a millisecond, only silence has to be waited for.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from kubeproxy.dataplane.base import Backend, SyncFailed
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import Record
from tests.scenarios.addresses import BACKENDS, HOSTS, MORE_PORTS, name_of
from tests.scenarios.examine import examine
from tests.scenarios.history import Moment, moments
from tests.scenarios.lab import Lab, lab
from tests.scenarios.modes import ALL, Mode
from tests.scenarios.probes import Answer, probe
from tests.scenarios.scene import Case
from tests.scenarios.sites import SITES
from tests.scenarios.table import Row

WORKERS, LABS = 192, 4
SLOWNESS = float(os.environ.get("KUBEPROXY_SLOWNESS", "1"))
"""How much slower than a plain machine this one answers: a probe that hears nothing waits so much longer."""
ATTEMPTS = 20


class Outcome(Record, frozen=True, kw_only=True):
    """What a case came to; ``wrong`` is "" when it was as expected."""

    case: Case
    wrong: str = ""


def run(
    rows: Sequence[Row],
    mode: Mode,
    families: Iterable[Family] = tuple(Family),
    only: Callable[[Row], bool] | None = None,
) -> list[Outcome]:
    """Ask everything about the rows (of them, about ``only`` some); return every outcome."""
    asked = {row.name for row in rows if only is None or only(row)}
    sites = dict.fromkeys(row.site for row in rows if row.name in asked)
    with ThreadPoolExecutor(LABS) as labs, ThreadPoolExecutor(WORKERS) as crowd:
        parts = labs.map(lambda site: _run_site(rows, site, mode, tuple(families), asked, crowd), sites)
        return [outcome for part in parts for outcome in part]


def _run_site(
    rows: Sequence[Row], site: str, mode: Mode, families: Sequence[Family], asked: set[str], crowd: Executor
) -> list[Outcome]:
    """Step through all rows of a site in a lab of their own."""
    found: list[Outcome] = []
    with lab() as place, Programmed(place, mode, families) as node:
        if SITES[site].closed:
            for family in families:
                place.run("node", lambda: mode.close(family))  # noqa: B023  (run waits for it)
        for moment in moments(rows, site, mode.word, families):
            trouble = node.sync(moment)
            cases = [case for case in moment.cases if case.row in asked]

            def outcome(case: Case, trouble: dict[str, str] = trouble) -> Outcome:
                return _told(case, trouble) or _examined(place, case)

            found += crowd.map(outcome, _slow_first(cases))
    return found


def _told(case: Case, trouble: dict[str, str]) -> Outcome | None:
    wrong = trouble.get("") or trouble.get(case.namespace)
    return Outcome(case=case, wrong=wrong) if wrong else None


def _examined(place: Lab, case: Case) -> Outcome:
    def ask(timeout: float) -> Answer | str:
        return probe(place, case.client, case.protocol, case.address, case.port, timeout * SLOWNESS)

    return Outcome(case=case, wrong=examine(case, ask, time.sleep))


def _slow_first(cases: list[Case]) -> list[Case]:
    slow = {"forgets": 0, "DROPPED": 1, "BLOCKED": 1, "REFUSED": 2}
    return sorted(cases, key=lambda case: slow.get(case.expect.kind, 3))


class Programmed:
    """The node's backends, one a family; everything is removed at the end."""

    def __init__(self, place: Lab, mode: Mode, families: Sequence[Family]) -> None:
        self._place = place
        self._backends: dict[Family, Backend] = {family: mode.backend(family) for family in families}

    def __enter__(self) -> "Programmed":
        return self

    def __exit__(self, *_: object) -> None:
        for backend in self._backends.values():
            self._place.run("node", backend.cleanup)

    def sync(self, moment: Moment) -> dict[str, str]:
        """Program a moment; return what went wrong, by a row's namespace ("" for all of them)."""
        for who, port, address in sorted({each for case in moment.cases for each in _listeners(case)}):
            self._place.listen(who, (port,), address)
        trouble: dict[str, str] = {}
        for family, backend in self._backends.items():
            try:
                trouble |= self._place.run("node", lambda f=family, b=backend: _apply(b, moment, f))  # type: ignore[misc]
            except Exception as error:  # whatever it is, it is this site's rows that failed
                trouble[""] = f"{family.label} was not programmed: {type(error).__name__}: {error}"
        return trouble


def _listeners(case: Case) -> Iterator[tuple[str, int, str]]:
    """Yield who must listen: in which namespace, on which port, of which address ("" for all)."""
    if case.expect.kind == "IGNORED":  # lest it look like "refused"
        who = name_of(case.address)
        yield who, case.port, case.address if who == "node" else ""
    for name, port in case.expect.servers:
        if name in BACKENDS and port in MORE_PORTS:
            yield HOSTS[name].namespace, port, ""


def _apply(backend: Backend, moment: Moment, family: Family) -> dict[str, str]:
    """Sync as the agent's syncer does: what failed is tried again, wholly; return what is then left out."""
    scope = moment.touched
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            plan = backend.diff(wanted(moment.world, moment.settings, family, scope), scope)
            if plan is None:
                return {}
            applied = backend.apply(plan)
        except SyncFailed:
            if not attempts_left:
                raise
            scope = None
        else:
            return {name.namespace: f"left out: {why}" for name, why in applied.quarantined.items()}
    return {}


def main(arguments: Sequence[str]) -> int:
    """Run the table in the mode that the first argument names, of it the rows that the others are found in."""
    from tests.scenarios.rows import ROWS

    name, *words = arguments
    began = time.monotonic()
    outcomes = run(ROWS, ALL[name], only=lambda row: " ".join(words) in row.name)
    wrong = [each for each in outcomes if each.wrong]
    for each in wrong:
        print(f"WRONG {each.case}: {each.wrong}")
    print(f"{name}: {len(outcomes)} questions, {len(wrong)} wrong, {time.monotonic() - began:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
