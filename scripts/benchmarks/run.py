"""`scripts/bench`: run the benchmarks that are asked for; print tables, write JSON for programs and a picture.

What each row means, and what was found, is in docs/performance.md. The JSON is a list of objects as
`figures.Row` has them: `what`, `mode`, `services`, `p50_ms`, `p99_ms`, `seconds`, `floor_seconds`, `ratio`,
`rss_mib` and more; null where a row has no such figure.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import figures
import inside
import report
from agent import AGENT
from figures import Row, Size
from in_turn import IN_TURN
from others import OTHERS
from places import Places

SIZES = "100,1000,10000,30000,1x10000"
LARGEST = {"iptables-nft": 1_000}
"""Services up to which a mode is measured without --slow: iptables-nft-restore takes minutes beyond."""
LARGEST_AGENT = {"ipvs": 1_000}
"""The same of the agent as a process: inside the machine an API server is filled for minutes."""


class Step(NamedTuple):
    """A part of a run, in processes of its own."""

    name: str
    measure: Callable[[], Iterable[Row]]


def steps(given: argparse.Namespace, places: Places) -> Iterator[Step]:
    """Yield what is to be measured: mode by mode, size by size."""
    only = [name for name in given.only if name in (*inside.ONLY, *inside.WHEN_ASKED)]
    for mode in given.modes if only or IN_TURN in given.only else ():
        sizes = list(_bearable(mode, given.sizes, slow=given.slow))
        for size in sizes if only else ():
            whats = _bearable_whats(mode, size, only, slow=given.slow)
            if whats:
                yield Step(f"{mode} at {size}", partial(places.run, mode, size, whats, slow=given.slow))
        several = [size for size in sizes if size.endpoints == 3]
        if IN_TURN in given.only and len(several) > 1:
            yield Step(f"{mode}, sizes in turn", partial(places.in_turn, mode, several))
    for name in given.only:
        if name in OTHERS:
            yield Step(name, partial(OTHERS[name], given.sizes))


def _bearable(mode: str, sizes: Sequence[Size], *, slow: bool) -> Iterator[Size]:
    for size in sizes:
        if slow or size.services * size.endpoints <= 3 * LARGEST.get(mode, 10**9):
            yield size
        else:
            print(f"{mode} at {size}: not without --slow", file=sys.stderr)


def _bearable_whats(mode: str, size: Size, only: Sequence[str], *, slow: bool) -> list[str]:
    is_small = slow or size.services <= LARGEST_AGENT.get(mode, 10**9)
    return [what for what in only if what != AGENT or is_small]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 1 when something could not be."""
    given = _arguments(argv)
    rows: list[Row] = []
    failed: list[str] = []
    with Places() as places:
        for step in steps(given, places):
            began = time.monotonic()
            try:
                rows += step.measure()
            except (Exception, SystemExit):  # As programs, measurements end by the latter.
                # It must not cost what else was, and will be, measured.
                traceback.print_exc()
                failed.append(step.name)
            seconds = time.monotonic() - began
            print(f"{step.name}: {seconds:.0f} s{', failed' * (step.name in failed)}", file=sys.stderr)
            if given.json:
                given.json.write_bytes(figures.encode(rows))
    report.show(rows)
    if given.plot:
        import plot

        plot.write(rows, given.plot)
    if failed:
        print(f"failed, with their last words above: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    usual = (*inside.ONLY, IN_TURN)
    all_whats = (*usual, *inside.WHEN_ASKED, *OTHERS)
    parser.add_argument(
        "--only",
        type=lambda text: _words(text, all_whats),
        default=list(usual),
        help=f"what to measure, of {', '.join(all_whats)}; without it {', '.join(usual)}",
    )
    parser.add_argument(
        "--modes",
        type=lambda text: _words(text, tuple(inside.SUBJECTS)),
        default=list(inside.SUBJECTS),
        help=f"of {', '.join(inside.SUBJECTS)}",
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=SIZES,
        help=f"Services, each with 3 endpoints, or SERVICESxENDPOINTS; without it {SIZES}",
    )
    parser.add_argument("--slow", action="store_true", help="also what takes minutes: see docs/performance.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="write a picture (PNG); without it beside --json's FILE"
    )
    given = parser.parse_args(argv)
    if given.json and not given.plot:
        given.plot = given.json.with_suffix(".png")
    return given


def _words(text: str, known: Sequence[str]) -> list[str]:
    words = text.split(",")
    if unknown := [word for word in words if word not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not among {', '.join(known)}")
    return words


def _sizes(text: str) -> list[Size]:
    try:
        return figures.parse_sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
