"""Answers of the agent's `/services`: the World as it is now, and a look at the kernel in a thread of its own.

Nothing is kept between two looks. The backends go on meanwhile: they have sockets of their own, and wait for a
look only while it lists IPVS's virtual servers.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping

from kubeproxy.kernel.exec import KernelError
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.trace.question import BadQuestion
from kubeproxy.traffic.answer import Answer, Look, in_order
from kubeproxy.traffic.directory import Directory
from kubeproxy.traffic.question import Question

MOST_WAITING = 4
"""Questions that wait for the look of another one."""

LookAt = Callable[[Directory, Question], Look]
"""Looks at the kernel. Blocking. Raises KernelError, OSError."""


class NoSuchService(BadQuestion):
    """A Service that is not proxied here."""


class Busy(Exception):
    """Too many ask at once."""


class Observer:
    """Answers for one node, one look at a time."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        mode: str,
        counted_by: str,
        looks: Mapping[Family, LookAt],
    ) -> None:
        self._world = world
        self._settings = settings
        self._mode = mode
        self._counted_by = counted_by
        self._looks = looks
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def answer(self, question: Question) -> Answer:
        """Answer, on the loop that owns the World. Raises NoSuchService, Busy."""
        if question.service is not None and question.service not in self._world.services:
            raise NoSuchService(f"there is no Service {'/'.join(question.service)} (none that is proxied here)")
        if self._waiting > MOST_WAITING:
            raise Busy("too many look at connections at once; try again")
        self._waiting += 1
        try:
            async with self._turn:
                world = self._world.part(None)
                looked, unread = await asyncio.to_thread(self._look, world, question)
        finally:
            self._waiting -= 1
        ports = sorted((port for look in looked for port in look.ports), key=in_order)
        return Answer(
            node=self._settings.node_name,
            mode=self._mode,
            counted_by=self._counted_by,
            ports=tuple(ports[: question.top]),
            left_off=sum(look.left_off for look in looked) + max(len(ports) - question.top, 0),
            foreign=tuple([server for look in looked for server in look.foreign]),
            foreign_left_off=sum(look.foreign_left_off for look in looked),
            unread=tuple(unread),
        )

    def _look(self, world: World, question: Question) -> tuple[Collection[Look], list[str]]:
        looked, unread = [], []
        for family, look_at in self._looks.items():
            found = wanted(world, self._settings, family)
            try:
                looked.append(look_at(Directory(found.node, found.ports), question))
            except (KernelError, OSError) as error:
                unread.append(f"connections of {family.label} cannot be read: {error}")
        return looked, unread
