"""What runs in a process and a network namespace of its own, here or inside a machine; prints rows as JSON.

inside.py --mode nftables --size 1000 --only full-load,one-change
"""

import argparse
import logging
import sys
from collections.abc import Callable, Collection
from functools import partial

import agent
import changes
import figures
import first_packet
import loads
import repair
from figures import Row, Size
from namespace import own_xtables_lock
from subject import Subject
from subject_iptables import IptablesSubject
from subject_ipvs import IpvsSubject
from subject_nftables import NftablesSubject

from kubeproxy.kernel.iptables import Flavour

ONLY = (
    loads.FULL_LOAD,
    loads.ADOPTION,
    changes.ONE_CHANGE,
    changes.BURST,
    first_packet.FIRST_PACKET,
    agent.AGENT,
)
WHEN_ASKED = (repair.REPAIR,)
"""What is measured only when it is asked for by name."""

SUBJECTS: dict[str, Callable[[bool], Subject]] = {
    "iptables-legacy": partial(IptablesSubject, Flavour.LEGACY),
    "iptables-nft": partial(IptablesSubject, Flavour.NFT),
    "nftables": NftablesSubject,
    "ipvs": IpvsSubject,
}
"""By name; called with whether floors that take minutes are wanted too."""


def measure(subject: Subject, size: Size, only: Collection[str]) -> list[Row]:
    """Measure one mode at one size."""
    found: list[Row] = []
    if {loads.FULL_LOAD, loads.ADOPTION} & set(only):
        found += loads.measure(subject, size, only)
    if {changes.ONE_CHANGE, changes.BURST} & set(only):
        found += changes.measure(subject, size, only)
    if first_packet.FIRST_PACKET in only:
        found += first_packet.measure(subject, size)
    if agent.AGENT in only and size.endpoints == 3:
        found += agent.measure(subject, size)
    if repair.REPAIR in only and size.endpoints == 3:
        found += repair.measure(subject, size)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", required=True, choices=list(SUBJECTS))
    parser.add_argument("--size", required=True, type=figures.parse_size)
    parser.add_argument("--only", required=True)
    parser.add_argument("--slow", action="store_true")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with own_xtables_lock():
        found = measure(SUBJECTS[given.mode](given.slow), given.size, given.only.split(","))
    sys.stdout.buffer.write(figures.encode(found))


if __name__ == "__main__":
    main()
