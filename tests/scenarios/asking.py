"""Cases of the table as questions for `kubeproxy trace`, and its verdicts against what the table expects. Pure."""

from ipaddress import ip_address

from kubeproxy.trace.answer import Answer
from kubeproxy.trace.packet import Origin
from kubeproxy.trace.question import Question
from tests.scenarios.addresses import HOSTS, OWN, name_of
from tests.scenarios.scene import Case

_PODS = ("pod", "be1", "be2", "bridged", "farpod", "be3", "be4")


def question_of(case: Case) -> Question:
    """Return what trace is to be asked."""
    own = HOSTS[case.client].namespace == "node"
    return Question(
        source=case.source,
        origin=Origin.NODE if own else Origin.POD if case.client in _PODS else Origin.OUTSIDE,
        interface=case.interface,
        destination=str(ip_address(case.address)),
        port=str(case.port),
        protocol=case.protocol,
        family=case.family,
    )


def disagreement(case: Case, answer: Answer) -> str:
    """Return how a verdict differs from what packets are expected to do, "" when it does not."""
    wrong = _disagreement(case, answer)
    return f"{case}: {wrong}\n  " + "\n  ".join(step.text for step in answer.steps) if wrong else ""


def _disagreement(case: Case, answer: Answer) -> str:
    kind, outcome = case.expect.kind, answer.outcome
    untouched = outcome == "NOT OURS"
    if kind == "BLOCKED":
        return "" if outcome in ("FORWARD", "NOT OURS") else f"expected to be let go, not {outcome}"
    if kind == "IGNORED":
        return "" if untouched else f"expected to be ignored, not {outcome}"
    if kind == "REFUSED" and untouched and str(ip_address(case.address)) in OWN[case.family]:
        return ""  # by the kernel: nobody listens there
    if kind in ("REFUSED", "DROPPED"):
        return "" if outcome == kind else f"expected {kind}, not {outcome}"
    if untouched:
        return "" if {name for name, _ in case.expect.servers} == {name_of(case.address)} else outcome
    if outcome != "FORWARD":
        return f"expected answers, not {outcome}"
    used = [each for each in answer.endpoints if each.chance]
    ends = [each.endpoint.rpartition(":") for each in used]
    servers = {(name_of(address.strip("[]")), int(port)) for address, _, port in ends}
    expected = set(case.expect.servers)
    if {name for name, _ in servers} != {name for name, _ in expected}:
        return f"expected {expected}, not {servers}"
    if any(port and (name, port) not in servers for name, port in expected):
        return f"expected {expected}, not {servers}"
    seen = {"masq" if each.masquerade else "same" for each in used}
    if case.expect.client != "any" and seen != {case.expect.client}:
        return f"expected {case.expect.client}, not {seen}"
    if kind in ("sticky", "forgets") and not any(step.about == "affinity" for step in answer.steps):
        return "expected affinity"
    return ""
