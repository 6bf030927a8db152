"""The kernel's own TRACE of one connection's packets through the tables, in both of iptables' flavours. Blocking.

A rule in the raw table asks for it: it matches one connection only and is removed at the end; one that a killed
predecessor left is removed at the start. nf_tables tells its listeners (what xtables-monitor shows); legacy tables
log, here to a netlink socket of ours (nf_log is per network namespace, and is put back). Needs root.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol as Shape

from kubeproxy.kernel import nflog_messages as nflog
from kubeproxy.kernel import nftrace_messages as nftrace
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import AF, NETLINK_NETFILTER
from kubeproxy.kernel.paths import Hop, Path, TracedFlow
from kubeproxy.kernel.sole import TRACING, alone
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.model.addresses import Family

MARK = "kubeproxy trace"
"""The comment of our rules."""
CHAINS = ("PREROUTING", "OUTPUT")
QUIET_SECONDS = 0.15
"""When nothing more has come for so long, the packet is through."""
_TABLES = ("mangle", "nat", "filter", "security")


class _Listener(Shape):
    def events(self, seconds: float) -> Iterator[tuple[str, str, str, int, str]]:
        """Yield table, chain, kind, number of the rule from 1, and verdict, until nothing comes any more."""
        ...


class Tracer:
    """Traces one connection while its `with` block lasts."""

    def __init__(self, tables: Iptables, sysctls: Sysctls, flow: TracedFlow) -> None:
        self._tables = tables
        self._sysctls = sysctls
        self._flow = flow
        self._undo = contextlib.ExitStack()
        self._listener: _Listener | None = None

    def __enter__(self) -> "Tracer":
        with contextlib.ExitStack() as undo:
            undo.enter_context(alone(TRACING, "kubeproxy trace"))
            self._sweep()
            if self._tables.flavour is Flavour.NFT:
                self._listener = undo.enter_context(_Nft(self._tables.family))
            else:
                self._listener = undo.enter_context(_Legacy(self._tables.family, self._sysctls, self._flow))
            undo.callback(self._sweep)
            for chain in CHAINS:
                self._tables.run("-t", "raw", "-I", chain, *self._rule())
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def path(self, seconds: float) -> Path:
        """Return what the packet met; wait at most ``seconds`` for the first of it."""
        assert self._listener is not None
        events = [event for event in self._listener.events(seconds) if event[0] != "raw"]
        saved = {table: self._tables.save(table) for table in {event[0] for event in events} if table in _TABLES}
        rules = {table: _rules(text) for table, text in saved.items()}
        hops = []
        for table, chain, kind, number, verdict in events:
            if kind == "rule":
                listed = rules.get(table, {}).get(chain, [])
                text = listed[number - 1] if 0 < number <= len(listed) else f"rule {number or '?'}"
                ends = verdict == "drop" or text.endswith("-j DROP") or "-j REJECT" in text
                hops.append(Hop(table=table, chain=chain, rule=text, stopped=ends))
            elif kind == "policy" and (verdict == "drop" or f":{chain} DROP " in saved.get(table, "")):
                hops.append(Hop(table=table, chain=chain, rule="policy DROP", stopped=True))
        return Path(hops=tuple(hops), chains=tuple(dict.fromkeys((event[0], event[1]) for event in events)))

    def _rule(self) -> list[str]:
        flow = self._flow
        protocol = flow.protocol.lower()
        ports = ["--sport", str(flow.source_port), "--dport", str(flow.port)]
        match = ["-s", flow.source, "-d", flow.destination, "-p", protocol, "-m", protocol, *ports]
        return [*match, "-m", "comment", "--comment", MARK, "-j", "TRACE"]

    def _sweep(self) -> None:
        """Remove every rule of ours, whoever left it."""
        for chain in CHAINS:
            for _ in range(100):
                listed = self._tables.run("-t", "raw", "-S", chain, check=False).stdout.splitlines()
                rules = [line for line in listed if line.startswith("-A")]
                ours = [number for number, line in enumerate(rules, 1) if f'--comment "{MARK}"' in line]
                if not ours:
                    break
                self._tables.run("-t", "raw", "-D", chain, str(ours[0]), check=False)


class _Nft:
    def __init__(self, family: Family) -> None:
        self._family = family
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)
        self._handles: dict[tuple[str, str], list[int]] = {}

    def __enter__(self) -> "_Nft":
        try:
            self._netlink.join(nftrace.GROUP_NFTRACE)
        except OSError as error:
            self._netlink.close()
            raise KernelError(f"nf_tables tracing: {error.strerror}; run as root") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def events(self, seconds: float) -> Iterator[tuple[str, str, str, int, str]]:
        first = None
        for data in _datagrams(self._netlink, seconds):
            for event in nftrace.decode_events(data):
                first = event.packet if first is None else first
                # Later packets of the connection, and the same one again on the loopback interface, are others.
                if event.packet != first or event.family != AF[self._family]:
                    continue
                # A "rule" without a number is the end of a chain.
                if event.handle or event.kind != "rule":
                    number = self._number(event.table, event.chain, event.handle) if event.handle else 0
                    yield event.table, event.chain, event.kind, number, event.verdict

    def _number(self, table: str, chain: str, handle: int) -> int:
        """Return which rule of its chain a handle is, 0 when it is gone."""
        if (table, chain) not in self._handles:
            with NetlinkSocket(NETLINK_NETFILTER) as netlink:
                body = nftrace.encode_rules(self._family, table, chain)
                try:
                    answers = list(netlink.dump(nftrace.MSG_GET_RULE, body, "nf_tables rules"))
                except NetlinkError:
                    answers = []
            found = [nftrace.decode_rule(answer) for answer in answers]
            self._handles[table, chain] = [each for *where, each in found if where == [table, chain]]
        handles = self._handles[table, chain]
        return handles.index(handle) + 1 if handle in handles else 0


class _Legacy:
    def __init__(self, family: Family, sysctls: Sysctls, flow: TracedFlow) -> None:
        self._family = family
        self._sysctls = sysctls
        self._flow = flow
        self._logger = f"net/netfilter/nf_log/{AF[family]}"
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)
        self._before = ""

    def __enter__(self) -> "_Legacy":
        try:
            self._before = self._sysctls.read(self._logger)
            for body in nflog.encode_binding(self._family):
                self._netlink.request(nflog.MSG_CONFIG, 0, body, "nfnetlink_log")
            self._sysctls.ensure(self._logger, "nfnetlink_log")
        except (KernelError, OSError):
            self._netlink.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(KernelError):
            self._sysctls.ensure(self._logger, self._before or "NONE")
        self._netlink.close()

    def events(self, seconds: float) -> Iterator[tuple[str, str, str, int, str]]:
        seen: set[tuple[str, str, str]] = set()
        for data in _datagrams(self._netlink, seconds):
            for event in nflog.decode_packets(data):
                where = (event.table, event.chain, event.kind)
                # IPVS takes the node's packet in OUTPUT, and sends it through OUTPUT again.
                sent_on = event.chain == "OUTPUT" and not any(chain == "POSTROUTING" for _, chain, _ in seen)
                if event.kind == "policy" and where in seen and not sent_on:
                    return  # the packet again, on the loopback interface, or the next one of the connection
                seen.add(where)
                yield (
                    event.table,
                    event.chain,
                    event.kind,
                    event.number,
                    "accept" if event.kind == "policy" else "",
                )


def _datagrams(source: NetlinkSocket, seconds: float) -> Iterator[bytes]:
    data = source.listen(seconds)
    while data:
        yield data
        data = source.listen(QUIET_SECONDS)


def _rules(text: str) -> dict[str, list[str]]:
    """Return the rules of each chain of an iptables-save."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            found.setdefault(chain, []).append(rule)
    return found
