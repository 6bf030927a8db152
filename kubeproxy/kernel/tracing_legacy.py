"""Tracing in legacy tables: rules in the raw table ask for it, and the kernel logs, to a netlink socket of ours.

nf_log is per network namespace, and is put back.
"""

import contextlib
from collections.abc import Iterator

from kubeproxy.kernel import nflog_messages as nflog
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.iptables import Iptables
from kubeproxy.kernel.netlink import NetlinkSocket
from kubeproxy.kernel.netlink_messages import AF, NETLINK_NETFILTER
from kubeproxy.kernel.paths import TracedFlow
from kubeproxy.kernel.sysctl import Sysctls
from kubeproxy.kernel.trace_events import Event, datagrams

MARK = "kubeproxy trace"
"""The comment of our rules."""
CHAINS = ("PREROUTING", "OUTPUT")


class LegacyTracing:
    """See `trace_events.Tracing`."""

    def __init__(self, tables: Iptables, sysctls: Sysctls, flow: TracedFlow) -> None:
        self._tables = tables
        self._sysctls = sysctls
        self._flow = flow
        self._logger = f"net/netfilter/nf_log/{AF[tables.family]}"
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "LegacyTracing":
        with contextlib.ExitStack() as undo:
            undo.callback(self._netlink.close)
            self._sweep()
            self._listen(undo)
            undo.callback(self._sweep)
            for chain in CHAINS:
                self._tables.run("-t", "raw", "-I", chain, *self._rule())
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _listen(self, undo: contextlib.ExitStack) -> None:
        before = self._sysctls.read(self._logger)
        for body in nflog.encode_binding(self._tables.family):
            self._netlink.request(nflog.MSG_CONFIG, 0, body, "nfnetlink_log")
        undo.callback(self._unlisten, before or "NONE")
        self._sysctls.ensure(self._logger, "nfnetlink_log")

    def _unlisten(self, before: str) -> None:
        with contextlib.suppress(KernelError):
            self._sysctls.ensure(self._logger, before)

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

    def events(self, seconds: float) -> Iterator[Event]:
        """See `trace_events.Tracing.events`."""
        seen: set[tuple[str, str, str]] = set()
        for data in datagrams(self._netlink, seconds):
            for event in nflog.decode_packets(data):
                where = (event.table, event.chain, event.kind)
                # IPVS takes the node's packet in OUTPUT, and sends it through OUTPUT again.
                sent_on = event.chain == "OUTPUT" and not any(chain == "POSTROUTING" for _, chain, _ in seen)
                if event.kind == "policy" and where in seen and not sent_on:
                    return  # the packet again, on the loopback interface, or the next one of the connection
                seen.add(where)
                if event.table != "raw":
                    yield Event(*where, event.number, "accept" if event.kind == "policy" else "")
