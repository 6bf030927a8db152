"""Which of a Service port's own chains a change writes, and which go: those that differ. Pure.

A port with many endpoints has many chains, and a restore costs each line. What a large Service's change leaves
alone are whole pages, which are told by their text; of other chains the lines are compared. There one endpoint in
place of another differs in the chains between the two, in the order of their addresses; one more or less has
other shares in most.
"""

from collections.abc import Container

from kubeproxy.dataplane.iptables.pages import unshared
from kubeproxy.dataplane.iptables.render import Fragment


def touched(before: Fragment, after: Fragment) -> str:
    """Return the lines of ``after`` that are about chains which stand otherwise, or not at all, in ``before``."""
    pages = [page.text for page in unshared(after.pages, before.pages)]
    return "".join([*pages, _touched(before.body, after.body, chains=len(after.chains))])


def given_up(before: Fragment, after: Fragment) -> list[str]:
    """Return the chains that ``before`` has and ``after`` has not."""
    gone: list[str] = []
    if before.chains and before.chains != after.chains:
        kept = frozenset(after.chains)
        gone += [each for each in before.chains if each not in kept]
    if before.pages:
        # A run's first endpoint gives its chains their names: a page that replaces another may have the same.
        new = {each for page in unshared(after.pages, before.pages) for each in page.chains}
        left = unshared(before.pages, after.pages)
        gone += [each for page in left for each in page.chains if each not in new]
    return gone


def _touched(before: str, after: str, *, chains: int) -> str:
    """Return what `touched` does of bodies, in which each line begins with `:CHAIN ` or `-A CHAIN `."""
    if before == after:
        return ""
    if chains < 2 or not before:
        return after
    stand, want = _by_chain(before), _by_chain(after)
    differ = {chain for chain, lines in want.items() if stand.get(chain) != lines}
    if len(differ) == len(want):
        return after
    return lines_about(differ, after)


def lines_about(chains: Container[str], text: str) -> str:
    """Return the lines of a text that make and fill these chains; each begins with `:CHAIN ` or `-A CHAIN `."""
    return "".join([line for line in text.splitlines(keepends=True) if _chain(line) in chains])


def _by_chain(body: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in body.splitlines():
        found.setdefault(_chain(line), []).append(line)
    return found


def _chain(line: str) -> str:
    start = 1 if line[0] == ":" else 3
    return line[start : line.index(" ", start)]
