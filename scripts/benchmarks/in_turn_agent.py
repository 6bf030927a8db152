"""An agent that makes changes when it is told to: a line with a number in, a line with the seconds of each out.

The first line out, an empty list, says that it is at rest. It ends with its standard input (`in_turn.py`).
"""

import argparse
import asyncio
import itertools
import json
import logging
import sys

import figures
from agent_bed import running
from changes import STRIDE, Changes, one_by_one, rest
from figures import Size
from inside import SUBJECTS
from namespace import fresh, own_xtables_lock
from subject import Subject


async def serve(subject: Subject, size: Size, *, real: bool) -> None:
    """Run the agent, over this namespace's kernel or over none, and obey."""
    changes = Changes(size)
    numbers = (turn * STRIDE % size.services for turn in itertools.count())
    async with running(subject, size, real=real) as bed:
        await rest()
        print([], flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            seconds, _ = await one_by_one(bed, (changes.moved(next(numbers)) for _ in range(int(line))))
            print(json.dumps(seconds), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", required=True, choices=list(SUBJECTS))
    parser.add_argument("--size", required=True, type=figures.parse_size)
    parser.add_argument("--no-kernel", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with own_xtables_lock():
        fresh()
        asyncio.run(serve(SUBJECTS[given.mode](False), given.size, real=not given.no_kernel))


if __name__ == "__main__":
    main()
