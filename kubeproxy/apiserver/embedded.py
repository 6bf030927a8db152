"""The API server inside the node agent: one machine needs no other program."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kubeproxy.apiserver.allocate import parse_ranges
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock


@contextlib.asynccontextmanager
async def serve_embedded(
    path: Path, address: tuple[str, int], service_range: str, node_port_range: str
) -> AsyncIterator[str]:
    """Serve the API over the SQLite file ``path`` at ``address``; yield its URL.

    Raises OSError for an address that cannot be had, StoreError for the file, ValueError for a range.
    """
    settings = Settings(
        store=f"sqlite:{path}",
        ranges=parse_ranges(service_range, node_port_range),
        bind_address=address[0],
        port=address[1],
    )
    async with running(settings, SystemClock()) as url:
        yield url
