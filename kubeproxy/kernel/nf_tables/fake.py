"""A table of a model of nf_tables for tests, ours and our users', with knobs for what can go wrong."""

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import NAME, Refused
from kubeproxy.kernel.nf_tables.fields import SPOKEN, clipped
from kubeproxy.kernel.nf_tables.model import Contents, No
from kubeproxy.kernel.nf_tables.refusals import explained
from kubeproxy.model.addresses import Family


class FakeNftables:
    """The nf_tables of one network namespace; several `FakeTable` may be about it, or about one table of it."""

    def __init__(self) -> None:
        self.present = True
        """Whether this kernel has nf_tables."""
        self.releases_at_once = True
        """False for kernels before 6.2: a chain that a deleted element led to goes in a later transaction."""
        self.names_elements = True
        """False for kernels before 5.12: a refusal does not say which of several elements it was."""
        self.tables: dict[tuple[Family, str], Contents] = {}
        self.generation = 1
        self.made = 0
        """How many tables were made."""

    def disturbed(self) -> None:
        """Have somebody else change something in this network namespace."""
        self.generation += 1


class FakeTable:
    """See `base.NfTable`; refuses what the kernel refuses, with its numbers."""

    def __init__(self, family: Family = Family.V4, name: str = NAME, kernel: FakeNftables | None = None) -> None:
        self._family = family
        self._key = family, name
        self._where = f"nf_tables {SPOKEN[family]} {name}"
        self.kernel = kernel or FakeNftables()
        self.commits: list[list[t.Change]] = []
        """The steps of each transaction that was done through this object, without `Split`."""
        self.failures: list[Exception] = []
        """Raised by the next commits, one each, with nothing done."""
        self.refuses: Callable[[t.Change], int] = lambda change: 0
        """Error with which the kernel refuses a step, 0 for none, beside those that it must."""
        self.refuses_element: Callable[[t.Element], int] = lambda element: 0
        """The same for an element that is added."""
        self.most_steps = 0
        """How many steps fit into one transaction, 0 without limit; more are split, or refused (EMSGSIZE)."""

    @property
    def family(self) -> Family:
        """See `NfTable`."""
        return self._family

    @property
    def contents(self) -> Contents | None:
        """What is in the table, None when there is none. To be looked at; another table object may change it."""
        return self.kernel.tables.get(self._key)

    def learn(self, name: str, element: t.Element) -> None:
        """Have a packet add an element to a dynamic set; that is no transaction."""
        self.kernel.tables[self._key].learn(name, element)

    def commit(self, changes: Iterable[t.Change], after: int | None = None) -> int:
        """See `NfTable`."""
        steps = list(changes)
        self._ask()
        if self.failures:
            raise self.failures.pop(0)
        parts = list(self._split(steps))
        for number, (start, end) in enumerate(parts):
            if after is not None and after + number != self.kernel.generation:
                raise Refused(errno.ERESTART, explained(errno.ERESTART, self._where, None), done=start)
            self._transact(steps, start, end)
        return len(parts)

    def _split(self, steps: list[t.Change]) -> Iterator[tuple[int, int]]:
        """Cut steps into transactions: where each begins and ends."""
        most = self.most_steps or len(steps)
        ends = [i for i, step in enumerate(steps) if isinstance(step, t.Split)] + [len(steps)]
        start = here = count = 0
        for end in ends:
            more = sum(not isinstance(step, t.Split) for step in steps[here:end])
            if more > most:
                raise Refused(errno.EMSGSIZE, explained(errno.EMSGSIZE, self._where, None))
            if count + more > most:
                yield start, here
                start, count = here, 0
            here, count = end, count + more
        if count:
            yield start, here

    def _transact(self, steps: list[t.Change], start: int, end: int) -> None:
        """Do some steps, or raise Refused. As the kernel: what chains lead to is looked at when all are done.

        If that is wrong, all is done again from the beginning, with a look after each step, to find the culprit.
        """
        wanted = [(index, steps[index]) for index in range(start, end) if not isinstance(steps[index], t.Split)]
        try:
            contents, is_changed = self._tried(wanted, start)
            if contents is not None:
                contents.validate()
        except No:
            contents, is_changed = self._tried(wanted, start, validating=True)
        if contents is not None:
            self.kernel.tables[self._key] = contents
        else:
            self.kernel.tables.pop(self._key, None)
        if wanted:
            self.commits.append([step for _, step in wanted])
        self.kernel.generation += is_changed

    def _tried(
        self, wanted: list[tuple[int, t.Change]], start: int, *, validating: bool = False
    ) -> tuple[Contents | None, bool]:
        """Return what is in the table after steps, and whether the kernel has noted any change."""
        contents = self.contents.copy() if self.contents is not None else None
        is_changed = False
        for index, step in wanted:
            before = contents
            try:
                contents = self._carried_out(before, step)
                if validating and contents is not None and isinstance(step, t.AddRule | t.AddElements):
                    contents.validate()
            except No as error:
                raise self._refused(error, step, index, start) from None
            is_changed |= before is None or contents is None or contents.is_changed
        return contents, is_changed

    def _carried_out(self, contents: Contents | None, step: t.Change) -> Contents | None:
        code = self.refuses(step)
        if code:
            raise No(code)
        if isinstance(step, t.AddTable):
            if contents is None:
                return self._empty(step)
            contents.turn(step.dormant)
            return contents
        if contents is None:
            raise No(errno.ENOENT)
        if isinstance(step, t.DeleteTable):
            return None
        if isinstance(step, t.AddElements):
            for index, element in enumerate(step.elements):
                code = self.refuses_element(element)
                if code:
                    raise No(code, index)
        contents.carry_out(step)
        return contents

    def _empty(self, step: t.AddTable) -> Contents:
        made = Contents(self._family, step.comment)
        made.dormant = step.dormant
        self.kernel.made += 1
        made.handle = self.kernel.made
        made.releases_at_once = self.kernel.releases_at_once
        return made

    def _refused(self, error: No, step: t.Change, index: int, done: int) -> Refused:
        element = error.element
        if isinstance(step, t.AddElements | t.DeleteElements) and not self.kernel.names_elements:
            element = 0 if element is not None and len(step.elements) == 1 else None
        sets = self.contents.sets if self.contents is not None else {}
        what = explained(error.code, self._where, step, element, self._family, sets)
        return Refused(error.code, what, index, element, done)

    def exists(self) -> bool:
        """See `NfTable`."""
        self._ask()
        return self.contents is not None

    def is_dormant(self) -> bool:
        """See `NfTable`."""
        self._ask()
        return self.contents is not None and self.contents.dormant

    def handle(self) -> int:
        """See `NfTable`."""
        self._ask()
        return self.contents.handle if self.contents is not None else 0

    def chains(self) -> dict[str, t.Chain]:
        """See `NfTable`."""
        self._ask()
        found = self.contents.chains.values() if self.contents is not None else ()
        return {each.name: _as_read(each) for each in found}

    def rules(self, chain: str) -> list[t.Rule]:
        """See `NfTable`."""
        return [rule for _, rule in self.numbered_rules(chain)]

    def numbered_rules(self, chain: str) -> list[tuple[int, t.Rule]]:
        """See `NfTable`."""
        self._ask()
        if self.contents is None or chain not in self.contents.rules:
            return []
        rules = map(_as_read, self.contents.rules[chain])
        return list(zip(self.contents.handles[chain], rules, strict=True))

    def sets(self) -> dict[str, t.SetSpec]:
        """See `NfTable`."""
        self._ask()
        found = self.contents.sets.values() if self.contents is not None else ()
        return {each.name: _as_read(each) for each in found}

    def elements(self, name: str) -> Iterator[t.Element]:
        """See `NfTable`."""
        self._ask()
        if self.contents is None or name not in self.contents.elements:
            raise Refused(errno.ENOENT, f"{self._where}, set {name}: {explained(errno.ENOENT, self._where, None)}")
        began = self.kernel.generation
        for element in list(self.contents.elements[name].values()):
            yield _as_read(element) if element.comment else element
        if self.kernel.generation != began:
            raise DumpInterrupted(f"{self._where}, set {name}: changed while it was read")

    def generation(self) -> int:
        """See `NfTable`."""
        self._ask()
        return self.kernel.generation

    def _ask(self) -> None:
        if not self.kernel.present:
            raise Refused(errno.EOPNOTSUPP, explained(errno.EOPNOTSUPP, self._where, None))


_T = TypeVar("_T", t.Chain, t.Rule, t.SetSpec, t.Element)


def _as_read(each: _T) -> _T:
    """Return something as it is read back: with the comment as it was written."""
    return msgspec.structs.replace(each, comment=clipped(each.comment)) if each.comment else each
