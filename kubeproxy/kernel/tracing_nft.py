"""Tracing in nf_tables: a table of our own asks for it, before every other, and the kernel tells its listeners.

What `nft monitor trace` shows, of iptables-nft's tables too. No program is needed.
"""

import contextlib
from collections.abc import Iterator

from kubeproxy.kernel import nftrace_messages as nftrace
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import NetlinkSocket
from kubeproxy.kernel.netlink_messages import AF, NETLINK_NETFILTER, PROTOCOL_NUMBER, packed_address
from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.fields import fields_bytes
from kubeproxy.kernel.nf_tables.rule_text import rule_text
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nftables import Nftables
from kubeproxy.kernel.paths import TracedFlow
from kubeproxy.kernel.trace_events import Event, datagrams
from kubeproxy.model.addresses import Family

TABLE = "kubeproxy-trace"
_BEFORE_ALL = -350
"""Before iptables' raw table (-300), behind connection tracking's own work on fragments (-400)."""
_CHAINS = tuple(t.Chain(hook, t.Base("filter", hook, _BEFORE_ALL)) for hook in (t.Hook.PREROUTING, t.Hook.OUTPUT))
_ADDRESSES = {Family.V4: (12, 16), Family.V6: (8, 24)}
"""Where source and destination stand in a packet's header."""
_INET = 1
"""NFPROTO_INET: a table of both families."""


def asking(family: Family, flow: TracedFlow) -> Iterator[t.Change]:
    """Yield the steps that have the packets of one connection traced. Pure."""
    yield t.AddTable("kubeproxy trace")
    length = family.host_bits // 8
    expressions: list[ex.Expression] = []
    for offset, address in zip(_ADDRESSES[family], (flow.source, flow.destination), strict=True):
        expressions.append(ex.Payload(ex.Header.NETWORK, offset, length, 0))
        expressions.append(ex.Compare(0, ex.Operator.EQUAL, packed_address(address)))
    expressions.append(ex.LoadMeta(ex.Meta.L4PROTO, 0))
    expressions.append(ex.Compare(0, ex.Operator.EQUAL, bytes((PROTOCOL_NUMBER[flow.protocol],))))
    for offset, port in ((0, flow.source_port), (2, flow.port)):
        expressions.append(ex.Payload(ex.Header.TRANSPORT, offset, 2, 0))
        expressions.append(ex.Compare(0, ex.Operator.EQUAL, port.to_bytes(2, "big")))
    expressions += [ex.Immediate(b"\1", 0), ex.StoreMeta(ex.Meta.NFTRACE, 0)]
    for chain in _CHAINS:
        yield t.AddChain(chain)
        yield t.AddRule(t.Rule(chain.name, tuple(expressions)))


class NftTracing:
    """See `trace_events.Tracing`."""

    def __init__(self, family: Family, flow: TracedFlow) -> None:
        self._family = family
        self._flow = flow
        self._listener = NetlinkSocket(NETLINK_NETFILTER)
        self._table = KernelTable(family, TABLE)
        self._rules: dict[tuple[str, str], dict[int, str]] = {}
        """Of each table and chain: the rules' words by their handles, in order."""
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "NftTracing":
        with contextlib.ExitStack() as undo:
            undo.callback(self._listener.close)
            undo.callback(self._table.close)
            try:
                self._listener.join(nftrace.GROUP_NFTRACE)
            except OSError as error:
                raise KernelError(f"nf_tables tracing: {error.strerror}; run as root") from error
            self._sweep()
            self._table.commit(list(asking(self._family, self._flow)))
            undo.callback(self._sweep)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _sweep(self) -> None:
        """Remove the table, whoever left it, of either family; no other trace is under way."""
        for family in Family:
            Nftables().delete_table(family, TABLE)

    def events(self, seconds: float) -> Iterator[Event]:
        """See `trace_events.Tracing.events`."""
        first = None
        for data in datagrams(self._listener, seconds):
            for event in nftrace.decode_events(data):
                first = event.packet if first is None else first
                # Later packets of the connection, and the same one again on the loopback interface, are others.
                if event.packet != first or event.table == TABLE:
                    continue
                if event.family == AF[self._family]:
                    # A "rule" without a number is the end of a chain.
                    if event.handle or event.kind != "rule":
                        yield self._event(event)
                elif event.family == _INET and (event.handle or event.kind != "rule"):
                    look = f"rule {event.handle} (nft -a list chain inet {event.table} {event.chain})"
                    yield Event(f"inet {event.table}", event.chain, event.kind, 0, event.verdict, look)

    def _event(self, event: nftrace.TraceEvent) -> Event:
        listed = self._listed(event.table, event.chain) if event.handle else {}
        number = list(listed).index(event.handle) + 1 if event.handle in listed else 0
        text = listed.get(event.handle, "")
        return Event(event.table, event.chain, event.kind, number, event.verdict, text)

    def _listed(self, table: str, chain: str) -> dict[int, str]:
        if (table, chain) not in self._rules:
            found: dict[int, str] = {}
            reading = KernelTable(self._family, table)
            with contextlib.closing(reading), contextlib.suppress(KernelError):
                keys = {name: fields_bytes(spec.key, self._family) for name, spec in reading.sets().items()}
                rules = reading.numbered_rules(chain)
                found = {handle: rule_text(rule, self._family, keys) for handle, rule in rules}
            self._rules[table, chain] = found
        return self._rules[table, chain]
