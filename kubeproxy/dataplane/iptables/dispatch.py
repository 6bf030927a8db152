"""How a rule that leads to a Service enters and leaves the chains that all Services share.

A rule is its text as iptables-save would print it, without the verb: `KUBE-SERVICES -d 10.96.0.1/32 ...`.
The chains are flat: one rule per virtual address and port. None of the rules depends on another Service's;
so a new one is added and an old one is deleted by its text, and the chain itself is never written again.
Fixed rules of a shared chain stand at its end, and a new rule is put in front of all others (of several new ones
the last therefore comes first); but in KUBE-NODEPORTS the fixed rule is first, and a new one is added at the end.
So is a node port's refusal.

This is the seam for dispatch by destination prefix: a tree changes where a rule goes, and nobody else knows.
"""

from kubeproxy.dataplane.iptables import names

_FIXED_FIRST = names.NODEPORTS + " "
_REFUSALS = names.EXTERNAL_SERVICES + " "
_ANY_LOCAL = "--dst-type LOCAL"


def insert(rule: str) -> str:
    """Return the line that adds a rule."""
    # A node port's refusal is for every local address; those of single addresses, which may be local, go first.
    last = rule.startswith(_FIXED_FIRST) or (rule.startswith(_REFUSALS) and _ANY_LOCAL in rule)
    return f"-{'A' if last else 'I'} {rule}\n"


def delete(rule: str) -> str:
    """Return the line that removes a rule."""
    return f"-D {rule}\n"


def moved(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    """Return the lines that replace a Service's old rules with its new ones; what is in both stays."""
    if not before:
        return "".join([insert(rule) for rule in after])
    old, new = set(before), set(after)
    gone = "".join([delete(rule) for rule in before if rule not in new])
    return gone + "".join([insert(rule) for rule in after if rule not in old])
