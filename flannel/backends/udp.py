"""udp: packets carried by a worker process between a TUN device and a UDP socket (`forwarder.py`).

For kernels without VXLAN. Speaks flannel's wire format, so both may share one network. The device lives and dies
with the worker; when either goes, the worker is started again and the reconciler gives the new device its
address and route. Faster forwarders of the same format (TUN offloads, eBPF) plug in at `UdpBackend._start`.
"""

import asyncio
import logging

import msgspec

from flannel.backends.base import BackendError, Context, Port, inner_mtu, options
from flannel.backends.forwarder import Report, Table
from flannel.lease import Lease, LeaseAttrs
from flannel.overlay import Scope, udp_wiring
from kubeproxy.kernel.links import Link, Wiring
from kubeproxy.kernel.tun import TunError, check_tun
from kubeproxy.kernel.worker import Worker, start_worker

log = logging.getLogger(__name__)

DEVICE = "flannel0"
DEFAULT_PORT = 8285
OVERHEAD_BYTES = 28
"""Outer IPv4 and UDP headers."""

RESTART_SECONDS = (0.2, 5.0)
"""The first and the longest pause before the worker is started again."""


class UdpOptions(msgspec.Struct, frozen=True, rename="lower"):
    """The Backend object's keys (folded to lower case) for this type."""

    port: Port = DEFAULT_PORT


class UdpBackend:
    """See `flannel.backends.base.Backend`."""

    lease_type = ""
    """flannel's udp backend writes no BackendType and takes every lease."""

    def __init__(self, context: Context) -> None:
        self.mtu = inner_mtu(0, context.underlay, OVERHEAD_BYTES)
        self.dropped: dict[str, int] = {}
        self.restarts = 0
        self._context = context
        self._port = options(context.netconf.backend, UdpOptions).port or DEFAULT_PORT
        self._device = Link(name=DEVICE, mtu=self.mtu)
        self._table: bytes = b""
        self._worker: Worker | None = None
        self.scope = Scope(network=context.network, devices=frozenset({DEVICE}), underlay=context.underlay.link)

    def attributes(self, standing: LeaseAttrs | None) -> LeaseAttrs:
        """See `Backend.attributes`."""
        try:
            check_tun()
        except TunError as error:
            raise BackendError(f"udp: {error}; or choose the vxlan backend") from error
        return LeaseAttrs(public_ip=self._context.underlay.public_ip)

    def wiring(self, own: Lease, peers: tuple[Lease, ...]) -> Wiring:
        """See `Backend.wiring`."""
        return udp_wiring(own, self._context.network, self._device)

    def announce(self, own: Lease, peers: tuple[Lease, ...]) -> None:
        """Hand the worker its routing table."""
        table = Table(
            network=str(self._context.network),
            address=str(own.subnet.network_address),
            port=self._port,
            routes=tuple((str(lease.subnet), str(lease.attrs.public_ip)) for lease in peers),
        )
        self._table = msgspec.json.encode(table) + b"\n"
        if self._worker is not None:
            self._worker.writer.write(self._table)

    async def run(self) -> None:
        """Keep a worker running until cancelled."""
        pause, longest = RESTART_SECONDS
        while True:
            self._worker = await self._start()
            try:
                if await self._listen(self._worker):
                    pause = RESTART_SECONDS[0]
            finally:
                worker, self._worker = self._worker, None
                status = await worker.end()
            log.error("the udp forwarder ended with status %d; starting it again in %.1f s", status, pause)
            self.restarts += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _start(self) -> Worker:
        address = str(self._context.underlay.address)
        worker = await start_worker("flannel.backends.forwarder", (DEVICE, address, str(self._port)))
        worker.writer.write(self._table)
        return worker

    async def _listen(self, worker: Worker) -> bool:
        """Read reports until the worker ends; True when it had come up."""
        came_up = False
        while line := await worker.reader.readline():
            came_up = True
            dropped = msgspec.json.decode(line, type=Report).dropped
            for reason in dropped.keys() - self.dropped.keys():
                log.warning("the udp forwarder drops packets: %s (logged once, counted on)", reason)
            self.dropped = dropped
        return came_up
