"""Which of a Service port's own chains a change writes: those that differ. Pure.

A port with many endpoints has many chains, and a restore costs each line. One endpoint in place of another differs
in the chains between the two, in the order of their addresses; one more or less has other shares in most.
"""


def touched(before: str, after: str) -> str:
    """Return the lines of ``after`` that are about chains which stand otherwise, or not at all, in ``before``.

    Both are bodies (`render.Fragment`): each line begins with `:CHAIN ` or `-A CHAIN `.
    """
    stand, want = _by_chain(before), _by_chain(after)
    differ = {chain for chain, lines in want.items() if stand.get(chain) != lines}
    if len(differ) == len(want):
        return after
    return "".join([line for line in after.splitlines(keepends=True) if _chain(line) in differ])


def _by_chain(body: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in body.splitlines():
        found.setdefault(_chain(line), []).append(line)
    return found


def _chain(line: str) -> str:
    start = 1 if line[0] == ":" else 3
    return line[start : line.index(" ", start)]
