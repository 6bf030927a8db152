"""How a rule that leads to a Service enters and leaves the chains that all Services share.

A rule is its text as iptables-save would print it, without the verb: `KUBE-SERVICES -d 10.96.0.1/32 ...`.
The chains are flat: one rule per virtual address and port. None of the rules depends on its neighbours,
save that the jump to the node ports stays last; so a new one is put in front and an old one is deleted by
its text, and the chain itself is never written again.

This is the seam for dispatch by destination prefix: a tree changes where a rule goes, and nobody else knows.
"""


def insert(rule: str) -> str:
    """Return the line that adds a rule."""
    return f"-I {rule}\n"


def delete(rule: str) -> str:
    """Return the line that removes a rule."""
    return f"-D {rule}\n"


def moved(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    """Return the lines that replace a Service's old rules with its new ones; what is in both stays."""
    if not before:
        return "".join([f"-I {rule}\n" for rule in after])
    gone = "".join([delete(rule) for rule in before if rule not in after])
    return gone + "".join([insert(rule) for rule in after if rule not in before])
