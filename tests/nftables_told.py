"""A node whose backend is told of others' changes, as a listener of the kernel would tell it."""

from collections.abc import Iterable, Iterator

import msgspec

from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.names import VERDICT_MAPS
from kubeproxy.kernel.nf_tables.base import NAME
from kubeproxy.kernel.nf_tables.element_messages import encode_elements
from kubeproxy.kernel.nf_tables.expressions import Decide
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.model import Contents
from kubeproxy.kernel.nf_tables.object_messages import encode_chain
from kubeproxy.kernel.nf_tables.types import Chain, Change, Element
from kubeproxy.kernel.notice_messages import TableNotice
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice, Service
from tests.nftables_node import Node

SOMEBODY = 4711


class ToldNode(Node):
    """See the module; it listens from its first full sync on, and looks then, as the agent does."""

    def __init__(self, *objects: Service | EndpointSlice, **settings: object) -> None:
        self.is_deaf = False
        """Whether nothing is told, own transactions neither."""
        super().__init__(*objects, **settings)
        self.full()
        self.journal.opened()
        assert self.backend.observe() == ""

    def restart(self) -> None:
        """See `Node.restart`."""
        self.journal = Journal()
        self.table = _Telling(self, self.table)
        self.backend = NftablesBackend(self.table, self.sysctls, Family.V4, journal=self.journal)

    def tamper(self, *steps: Change) -> None:
        """Let somebody else change the table; the kernel tells of it."""
        self._tell(self.table.tampered(steps))

    def rename(self, old: str, new: str) -> None:
        """Let somebody else rename a chain: what led there does so still, and only the new name is told."""
        assert self.table.contents is not None

        def led(decide: object) -> object:
            return Decide(decide.word, new) if isinstance(decide, Decide) and decide.chain == old else decide

        contents = self.table.kernel.tables[Family.V4, NAME] = self.table.contents.copy()
        contents.chains[new] = msgspec.structs.replace(contents.chains.pop(old), name=new)
        contents.rules[new] = [msgspec.structs.replace(rule, chain=new) for rule in contents.rules.pop(old)]
        contents.handles[new] = contents.handles.pop(old)
        for rules in contents.rules.values():
            rules[:] = [
                msgspec.structs.replace(rule, expressions=tuple(map(led, rule.expressions))) for rule in rules
            ]
        for name in VERDICT_MAPS:
            elements = contents.elements.get(name, {})
            contents.elements[name] = {
                key: msgspec.structs.replace(each, data=led(each.data)) for key, each in elements.items()
            }
        self.table.kernel.disturbed()
        self._tell([_chain(contents.chains[new])])

    def _tell(self, changes: Iterable[TableNotice]) -> None:
        if not self.is_deaf:
            for each in changes:
                self.journal.note(each)
            self.journal.ended(self.table.generation())

    def is_put_right(self, *, whole: bool = False) -> bool:
        """Return whether the backend says that it has undone what others did."""
        return self.backend.repair(whole=whole)


class _Telling(FakeTable):
    """The table as our own socket: what goes through it is told as the end of a transaction only."""

    def __init__(self, node: ToldNode, table: FakeTable) -> None:
        super().__init__(kernel=table.kernel)
        self._node, self._journal = node, node.journal

    def commit(self, changes: Iterable[Change], after: int | None = None) -> int:
        before = self.generation()
        done = super().commit(changes, after)
        if self.generation() != before and self._journal.hearing and not self._node.is_deaf:
            self._journal.ended(self.generation())
        return done

    def tampered(self, steps: Iterable[Change]) -> list[TableNotice]:
        """Let somebody else do it; return what the kernel tells of that."""
        before = self.contents
        FakeTable(kernel=self.kernel).commit(steps)
        return list(notices(before, self.contents))


def notices(before: Contents | None, after: Contents | None) -> Iterator[TableNotice]:
    """Yield what the kernel tells between two states of the table (one message an element)."""
    if before is None or after is None:
        yield _notice("table", is_gone=after is None)
    was, now = before or Contents(Family.V4), after or Contents(Family.V4)
    for name in was.chains.keys() | now.chains.keys():
        if was.handles.get(name, []) != now.handles.get(name, []):
            yield _notice("rule", name=name)
        if was.chains.get(name) != now.chains.get(name):
            yield _chain(was.chains[name], is_gone=True) if name not in now.chains else _chain(now.chains[name])
    for name in was.sets.keys() ^ now.sets.keys():
        yield _notice("set", name=name, is_gone=name in was.sets)
    if after is not None:
        for name in now.sets:
            old, new = was.elements.get(name, {}), now.elements[name]
            for key in old.keys() | new.keys():
                if key in old and old.get(key) != new.get(key):
                    yield _element(name, old[key], is_gone=True)
                if key in new and old.get(key) != new[key]:
                    yield _element(name, new[key], is_gone=False)


def _chain(chain: Chain, *, is_gone: bool = False) -> TableNotice:
    return _notice("chain", name=chain.name, is_gone=is_gone, body=encode_chain(Family.V4, NAME, chain))


def _element(name: str, element: Element, *, is_gone: bool) -> TableNotice:
    ((_, body),) = encode_elements(Family.V4, NAME, name, [element])
    return _notice("element", name=name, is_gone=is_gone, body=body)


def _notice(what: str, *, name: str = "", is_gone: bool = False, body: bytes = b"") -> TableNotice:
    return TableNotice(SOMEBODY, what, is_gone, NAME, name, body)
