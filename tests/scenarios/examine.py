"""Asking until it is clear whether a case is as expected. Pure: who asks, and who waits, is passed in."""

from collections.abc import Callable

from kubeproxy.model.objects import Protocol
from tests.scenarios.addresses import name_of
from tests.scenarios.probes import DROPPED, REFUSED, Answer
from tests.scenarios.scene import Case

SILENCE_SECONDS = 0.4
OWN_SILENCE_SECONDS = 1.4
"""A program on the node hears of its own packet's refusal only when TCP sends it again, after a second."""
ANSWER_SECONDS = 3.5
AT_LEAST, A_SERVER, STICKY_TRIES, FORGETTING_TRIES = 6, 25, 13, 12
"""Questions. AT_LEAST finds a stranger among two in 63 of 64 runs; A_SERVER each misses one in 10¹⁰."""

Ask = Callable[[float], Answer | str]
"""Asks once, waiting so many seconds for the answer."""


def examine(case: Case, ask: Ask, pause: Callable[[float], None]) -> str:
    """Return what differs from what was expected, "" when nothing does."""
    kind = case.expect.kind
    if kind in (DROPPED, "BLOCKED"):
        own = not case.interface and case.protocol is Protocol.TCP
        found = ask(OWN_SILENCE_SECONDS if own else SILENCE_SECONDS)
        return "" if found == DROPPED else f"expected silence, got {found}"
    if kind == REFUSED:
        found = ask(ANSWER_SECONDS)
        return "" if found == REFUSED else f"expected a refusal, got {found}"
    if kind == "IGNORED":
        found = ask(ANSWER_SECONDS)
        ours = isinstance(found, Answer) and found.server == name_of(case.address) and found.client == "same"
        return "" if ours else f"expected to be ignored, got {found}"
    if kind == "answer":
        return _all_answer(case, ask)
    return _one_answers(case, ask) if kind == "sticky" else _another_answers(case, ask, pause)


def _all_answer(case: Case, ask: Ask) -> str:
    missing = set(case.expect.servers)
    for turn in range(max(AT_LEAST, A_SERVER * len(missing))):
        found = ask(ANSWER_SECONDS)
        if isinstance(found, str) or _is_stranger(case, found):
            return f"expected {_expected(case)}, got {found}"
        missing -= {(found.server, found.port), (found.server, 0)}
        if not missing and turn + 1 >= AT_LEAST:
            return ""
    return "never answered: " + ", ".join(f"{name} {port or ''}".strip() for name, port in sorted(missing))


def _one_answers(case: Case, ask: Ask) -> str:
    first = None
    for _ in range(STICKY_TRIES):
        found = ask(ANSWER_SECONDS)
        if isinstance(found, str) or _is_stranger(case, found):
            return f"expected {_expected(case)}, got {found}"
        if found != (first := first or found):
            return f"does not stay: first {first}, then {found}"
    return ""


def _another_answers(case: Case, ask: Ask, pause: Callable[[float], None]) -> str:
    first = ask(ANSWER_SECONDS)
    for _ in range(FORGETTING_TRIES):
        pause(case.expect.seconds)  # the kernel goes by its own clock
        found = ask(ANSWER_SECONDS)
        if isinstance(found, str) or _is_stranger(case, found):
            return f"expected {_expected(case)}, got {found}"
        if found != first:
            return ""
    return f"stays for ever: {first}"


def _is_stranger(case: Case, found: Answer) -> bool:
    known = {(found.server, found.port), (found.server, 0)} & set(case.expect.servers)
    return not known or case.expect.client not in ("any", found.client)


def _expected(case: Case) -> str:
    return case.text.partition(" -> ")[2].partition("|")[0].strip()
