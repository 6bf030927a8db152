"""How a chain picks one of many endpoints, each with the same probability. Pure.

A chain of n rules costs a connection n/2 random draws, so beyond `LINEAR_MAX` the endpoints are spread over a
tree of chains: 5,000 of them cost 8 + 8 + 10 draws instead of 2,500. (A large Service's tree is one over runs of
endpoints: `pages.py`.)
"""

from collections.abc import Sequence

from kubeproxy.dataplane.iptables import names

LINEAR_MAX = 100
FAN_OUT = 16

_RANDOM = "-m statistic --mode random --probability"
CHANCES = tuple(
    tuple(f"{_RANDOM} {1 / left:.10f} " if left > 1 else "" for left in range(n, 0, -1))
    for n in range(LINEAR_MAX + 1)
)
"""By their number: the match with which each of so many ends in a row takes its share of what is left to it."""


def choose(chain: str, match: str, jump: str, ends: Sequence[str], chains: list[str], lines: list[str]) -> None:
    """Fill a chain so that what matches ("-p tcp ", say) jumps ("-j ") to each end equally often.

    Chains that are made for it are added to ``chains``, all lines to ``lines``.
    """
    if len(ends) <= LINEAR_MAX:
        in_a_row(chain, match, jump, ends, lines)
    else:
        _Tree(chain, match, jump, chains, lines).branch(chain, ends)


def in_a_row(chain: str, match: str, jump: str, ends: Sequence[str], lines: list[str]) -> None:
    """Fill a chain with a rule for each of a few ends."""
    for chance, end in zip(CHANCES[len(ends)], ends, strict=True):
        lines.append(f"-A {chain} {match}{chance}{jump}{end}\n")


def share_out(chain: str, branches: Sequence[tuple[str, int]], lines: list[str]) -> None:
    """Fill a chain so that each of the chains that it leads to gets its share, by the number of its ends."""
    remaining = sum([weight for _, weight in branches])
    for branch, weight in branches:
        share = f"{_RANDOM} {weight / remaining:.10f} " if weight < remaining else ""
        lines.append(f"-A {chain} {share}-j {branch}\n")
        remaining -= weight


class _Tree:
    def __init__(self, root: str, match: str, jump: str, chains: list[str], lines: list[str]) -> None:
        self._root = root
        self._match = match
        self._jump = jump
        self._chains = chains
        self._lines = lines
        self._parts = 0

    def branch(self, chain: str, ends: Sequence[str]) -> None:
        """Split the ends over chains of chains."""
        size = -(-len(ends) // FAN_OUT)
        branches: list[tuple[str, int]] = []
        for start in range(0, len(ends), size):
            part = ends[start : start + size]
            self._parts += 1
            branch = names.part_chain(self._root, self._parts)
            branches.append((branch, len(part)))
            self._chains.append(branch)
            self._lines.append(f":{branch} - [0:0]\n")
            if len(part) > LINEAR_MAX:
                self.branch(branch, part)
            else:
                in_a_row(branch, self._match, self._jump, part, self._lines)
        share_out(chain, branches, self._lines)
