"""One change at several sizes in turn: agents of all sizes live at once, and each makes a few changes at a time.

The machines that we measure on change their speed within minutes, so sizes measured one after another cannot be
compared. Here all meet the same machine: the ratio to the smallest is what size costs. Each agent is a process in
a network namespace of its own (`in_turn_agent.py`); beside each there is one over no kernel.

in_turn.py --mode nftables --sizes 100,1000,10000,30000
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import changes
import figures
from figures import Row, Size, rows
from meter import peak_mib
from namespace import alone
from subject import NO_KERNEL

IN_TURN = "in-turn"
MOVED, MOVED_IN_MEMORY = f"{changes.MOVED}, sizes in turn", f"{changes.MOVED} over no kernel, sizes in turn"
ROUNDS, AT_A_TIME = 40, 5
"""Each agent makes 200 changes."""
MOST_SECONDS, FEWEST_ROUNDS = 120.0, 4
"""What takes longer ends early: with legacy iptables a change at 30,000 Services takes half a second."""
ANSWER_SECONDS = 1800.0
"""Until an agent that does not answer is killed: a full load by iptables-nft takes minutes."""
Samples = Mapping[Size, Sequence[float]]

AGENT = str(Path(__file__).with_name("in_turn_agent.py"))


class Agent:
    """An agent in a process of its own, which makes changes when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]", size: Size) -> None:
        self._process = process
        self._size = size
        self.seconds: list[float] = []
        """Of each change so far."""

    def rest(self) -> None:
        """Wait until everything is in its kernel, and what follows a start is over."""
        self._answer()

    def change(self, times: int) -> None:
        """Have it make so many changes, one after another."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{times}\n")
        self._process.stdin.flush()
        self.seconds += self._answer()

    @property
    def peak_mib(self) -> float:
        return peak_mib(self._process.pid)

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        deadline = threading.Timer(ANSWER_SECONDS, self._process.kill)
        deadline.start()
        try:
            line = self._process.stdout.readline()
        finally:
            deadline.cancel()
        if not line:
            late = f", or was killed as it did not answer within {ANSWER_SECONDS:g} s"
            raise SystemExit(f"the agent of {self._size} Services has ended{late}; what it said is above")
        found: list[float] = json.loads(line)
        return found


def measure(mode: str, sizes: Sequence[Size]) -> list[Row]:
    """Measure one mode at all sizes, with a kernel and without."""
    with contextlib.ExitStack() as stack:
        real = {size: stack.enter_context(_running(mode, size)) for size in sizes}
        in_memory = {size: stack.enter_context(_running(mode, size, "--no-kernel")) for size in sizes}
        agents = [*real.values(), *in_memory.values()]
        for agent in agents:
            agent.rest()
        _take_turns(agents)
        peaks = {size: agent.peak_mib for size, agent in real.items()}
    of_real, of_memory = ({size: each.seconds for size, each in of.items()} for of in (real, in_memory))
    return compared(mode, of_real, of_memory, peaks)


def compared(mode: str, real: Samples, in_memory: Samples, peaks: Mapping[Size, float]) -> list[Row]:
    """Return the rows of seconds and peaks of memory by size: each beside the smallest size's."""
    found: list[Row] = []
    for what, samples in ((MOVED, real), (MOVED_IN_MEMORY, in_memory)):
        smallest = min(samples)
        for size, seconds in samples.items():
            floors: dict[str, Sequence[float]] = {}
            if size != smallest:
                floors[f"the same at {smallest.services:,} Services"] = samples[smallest]
            if what == MOVED:
                floors[NO_KERNEL] = in_memory[size]
            found += rows(what, mode, size, seconds, floors, rss_mib=peaks[size] if what == MOVED else None)
    return found


def _take_turns(agents: Sequence[Agent]) -> None:
    order, began = random.Random(0), time.monotonic()
    for turn in range(ROUNDS):
        for agent in order.sample(agents, len(agents)):
            agent.change(AT_A_TIME)
        if time.monotonic() - began > MOST_SECONDS and turn + 1 >= FEWEST_ROUNDS:
            return


@contextlib.contextmanager
def _running(mode: str, size: Size, *flags: str) -> Iterator[Agent]:
    argv = alone(AGENT, f"--mode={mode}", f"--size={size}", *flags)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Agent(process, size)
        finally:
            process.kill()  # Its namespace, and what is programmed there, goes with it.


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", required=True)
    parser.add_argument("--sizes", required=True, type=figures.parse_sizes)
    given = parser.parse_args()
    sys.stdout.buffer.write(figures.encode(measure(given.mode, given.sizes)))


if __name__ == "__main__":
    main()
