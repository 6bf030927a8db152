"""Writing one pod's status to the API: whenever it differs from what was written last, and until it is written."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from kubeproxy.controllers.objects import Condition
from kubeproxy.lab.node import Node
from kubeproxy.lab.podspec import LabPod
from kubeproxy.lab.podstatus import PodFacts, pod_status
from kubeproxy.model.timestamps import timestamp
from kubeproxy.store.base import StoreError
from kubeproxy.store.kube import ApiError
from kubeproxy.store.resources import PODS

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0


class StatusPublisher:
    """Publishes one pod; ``facts`` says how it is now."""

    def __init__(self, pod: LabPod, node: Node, facts: Callable[[], PodFacts]) -> None:
        self._pod = pod
        self._node = node
        self._facts = facts
        self._changed = asyncio.Event()
        self._written: dict[str, Any] | None = None
        self._conditions: dict[str, Condition] = {each.type: each for each in pod.status.conditions or ()}

    def changed(self) -> None:
        """Look again."""
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._write()
                pause = FIRST_PAUSE_SECONDS
            except StoreError as error:
                if isinstance(error, ApiError) and error.code in (404, 409):
                    continue  # The pod is gone, or another has its name: the informer will say so, too.
                if pause == FIRST_PAUSE_SECONDS:
                    log.warning("status of pod %s/%s is late, retrying: %s", *self._pod.metadata.key, error)
                self._changed.set()
                await self._node.clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _write(self) -> None:
        now = timestamp(self._node.clock.wall())
        status, self._conditions = pod_status(self._pod, self._facts(), self._conditions, now)
        if status == self._written:
            return
        patch = {"metadata": {"uid": self._pod.metadata.uid}, "status": status}
        await self._node.client.patch(PODS, *self._pod.metadata.key, patch, subresource="status")
        self._written = status
