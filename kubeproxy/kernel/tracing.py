"""The kernel's own TRACE of one connection's packets through the tables, in both of iptables' flavours. Blocking.

Rules of ours ask for it: they match one connection only and are removed at the end; what a killed predecessor left
is removed at the start. nf_tables tells its listeners (`tracing_nft`), legacy tables log (`tracing_legacy`). Needs
root.
"""

import contextlib

from kubeproxy.kernel.exec import CommandMissing
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.paths import Hop, Path, TracedFlow
from kubeproxy.kernel.sole import TRACING, alone
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.kernel.trace_events import Event, Tracing
from kubeproxy.kernel.tracing_legacy import LegacyTracing
from kubeproxy.kernel.tracing_nft import NftTracing

_TABLES = ("mangle", "nat", "filter", "security")


class Tracer:
    """Traces one connection while its `with` block lasts."""

    def __init__(self, tables: Iptables, sysctls: Sysctls, flow: TracedFlow) -> None:
        """See the class; where ``tables`` are nf_tables', their programs need not be installed."""
        self._tables = tables
        self._sysctls = sysctls
        self._flow = flow
        self._undo = contextlib.ExitStack()
        self._tracing: Tracing | None = None

    def __enter__(self) -> "Tracer":
        with contextlib.ExitStack() as undo:
            undo.enter_context(alone(TRACING, "kubeproxy trace"))
            if self._tables.flavour is Flavour.NFT:
                self._tracing = NftTracing(self._tables.family, self._flow)
            else:
                self._tracing = LegacyTracing(self._tables, self._sysctls, self._flow)
            undo.enter_context(self._tracing)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def path(self, seconds: float) -> Path:
        """Return what the packet met; wait at most ``seconds`` for the first of it."""
        assert self._tracing is not None
        events = list(self._tracing.events(seconds))
        saved = {table: self._saved(table) for table in {event.table for event in events} if table in _TABLES}
        rules = {table: _rules(text) for table, text in saved.items()}
        hops = []
        for event in events:
            if event.kind == "rule":
                hops.append(_hop(event, rules.get(event.table, {}).get(event.chain, [])))
            elif event.kind == "policy" and (
                event.verdict == "drop" or f":{event.chain} DROP " in saved.get(event.table, "")
            ):
                hops.append(Hop(table=event.table, chain=event.chain, rule="policy DROP", stopped=True))
        chains = dict.fromkeys((event.table, event.chain) for event in events)
        return Path(hops=tuple(hops), chains=tuple(chains))

    def _saved(self, table: str) -> str:
        try:
            return self._tables.save(table)
        except CommandMissing:  # what has such a name then is no table of iptables'
            return ""


def _hop(event: Event, listed: list[str]) -> Hop:
    """Return a rule that was met, in the words of iptables-save where that lists it."""
    text = listed[event.number - 1] if 0 < event.number <= len(listed) else event.text
    ends = event.verdict == "drop" or text.endswith("-j DROP") or "-j REJECT" in text
    return Hop(table=event.table, chain=event.chain, rule=text or f"rule {event.number or '?'}", stopped=ends)


def _rules(text: str) -> dict[str, list[str]]:
    """Return the rules of each chain of an iptables-save."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            found.setdefault(chain, []).append(rule)
    return found
