"""What stands in the table and what is wanted there, for one family; every change of it becomes steps. Pure.

Elements are not kept: rendering is cheap, so a port's old ones are made again when a change needs them. Only what
several ports may ask for is counted.

Cost of a change: that of the ports that it concerns. Whoever cannot carry out the steps throws the books away and
opens new ones.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from kubeproxy.dataplane.nftables.classes import Classes, lead_of
from kubeproxy.dataplane.nftables.layout import CHAINS, Layout
from kubeproxy.dataplane.nftables.names import FIREWALL_SOURCES, Class
from kubeproxy.dataplane.nftables.ranges import Lengths, set_of, spec_of
from kubeproxy.dataplane.nftables.render import Renderer
from kubeproxy.dataplane.nftables.sets import SHARED, SPECS
from kubeproxy.dataplane.nftables.sheet import Sheet, fill_what_moved
from kubeproxy.dataplane.nftables.slots import Slots
from kubeproxy.dataplane.nftables.survey import Correction, Survey, skeleton
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    Chain,
    Change,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    Element,
    FlushChain,
    Rule,
)
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import NodeState


class Books:
    """One family's state."""

    def __init__(self, node: NodeState, layout: Layout, found: Survey) -> None:
        """See the module; ``found``: what is there, of which as much as possible stays as it is."""
        self.classes = Classes(found.codes())
        self.family = node.family
        self._layout = layout
        self._slots = Slots(found.elements)
        self._renderer = Renderer(node, self.classes, self._slots)
        self._lengths = Lengths()
        self._shared = [_Shared(name) for name in sorted(SHARED)]

    def render(self, state: ServiceState, sheet: Sheet) -> None:
        """See `Renderer.render`."""
        self._renderer.render(state, sheet)

    def follow(self, name: ServicePortName, before: ServiceState | None, after: ServiceState | None) -> None:
        """See `Slots.follow`; between the rendering of the one and of the other."""
        self._slots.follow(name, before, after)

    def opened(self) -> None:
        """Note that all ports were rendered."""
        self._slots.settled()

    def enter(self, sheet: Sheet) -> list[Change]:
        """Take in ports that were not there; leave in the sheet what they add to the kernel.

        Returns the steps that make the chains that are wanted now, whatever there is of their names.
        """
        sheet.fill_lists()
        steps = list(self._come(sheet.classes, [], sheet))
        self._lengths.count(sheet.lengths)
        for each in self._shared:
            each.enter(sheet)
        return steps

    def admitting(self, found: Iterable[int]) -> Iterator[Change]:
        """Yield the steps that make the sets of source ranges that are wanted, and fill the chain that asks them.

        ``found``: the prefix lengths for which there are some; the chain is empty.
        """
        for length in self._lengths.standing.difference(found):
            yield AddSet(spec_of(length))
        for rule in self._layout.admitting(self._lengths.standing):
            yield AddRule(rule)

    def not_admitting(self, found: Iterable[int]) -> list[Change]:
        """Return the steps that delete sets of source ranges that no rule asks any more."""
        return [DeleteSet(set_of(length)) for length in found if length not in self._lengths.standing]

    def change(self, before: Sheet, after: Sheet) -> Iterator[Change]:
        """Yield the steps from what some ports asked for to what they ask for now."""
        fill_what_moved(before, after)
        yield from self._come(after.classes, before.classes, after)
        before_that = set(self._lengths.standing)
        if self._lengths.count(after.lengths, before.lengths):
            yield FlushChain(FIREWALL_SOURCES)
            yield from self.admitting(before_that)
        for each in self._shared:
            each.change(before, after)
        for name in after.elements | before.elements:
            gone, come = before.elements.get(name), after.elements.get(name)
            if gone or come:
                yield from _moved(name, gone or [], come or [])

    def _come(self, come: Iterable[Class], gone: Iterable[Class], sheet: Sheet) -> Iterator[Change]:
        """Count classes; lead to those that are new by the sheet, and yield the steps that make their chains."""
        for which in self.classes.count(come, gone):
            self._add_lead(which, sheet)
            yield from _made(which.chain, self._layout.rules_of(which))

    def rebuilding(self, found: Survey, states: Iterable[ServiceState]) -> Iterator[Change]:
        """Yield the steps from what is there to all that should be; ``states``: as for `standing`."""
        yield from skeleton(found, self._layout)
        yield from self.admitting(found.lengths())
        for chain, rules in self._rules_of_classes().items():
            yield from _made(chain, rules)
        correction = Correction(found)
        yield from correction.towards(self.standing(states))
        yield from correction.rest()
        yield from self.not_admitting(found.lengths())

    def standing(self, states: Iterable[ServiceState]) -> Sheet:
        """Return all that should be in the kernel, if ``states`` are those of all ports."""
        sheet = Sheet()
        for state in states:
            self._renderer.render(state, sheet)
        sheet.fill_lists()
        for name in SHARED:
            sheet.elements[name] = _once(sheet.elements[name])
        for which in self.classes.standing:
            self._add_lead(which, sheet)
        return sheet

    def chain_names(self) -> set[str]:
        """Return all chains that should be there."""
        return {*CHAINS, *(which.chain for which in self.classes.standing)}

    def rules(self) -> dict[str, list[Rule]]:
        """Return the rules that should be in each of them, as they are read back."""
        found: dict[str, list[Rule]] = {name: [] for name in CHAINS}
        for rule in (*self._layout.rules(), *self._layout.admitting(self._lengths.standing)):
            found[rule.chain].append(rule)
        return found | self._rules_of_classes()

    def _rules_of_classes(self) -> dict[str, list[Rule]]:
        return {which.chain: self._layout.rules_of(which) for which in self.classes.standing}

    def set_names(self) -> set[str]:
        """Return all sets that should be there."""
        return {*SPECS, *map(set_of, self._lengths.standing)}

    def sweep_lengths(self) -> list[Change]:
        """Return the steps that delete sets of source ranges that nobody has any more."""
        unused = self._lengths.unused()
        if not unused:
            return []
        found = set(self._lengths.standing)
        self._lengths.drop(unused)
        return [FlushChain(FIREWALL_SOURCES), *self.admitting(found), *self.not_admitting(found)]

    def unpick(self, unused: Iterable[Class]) -> list[Change]:
        """Return the steps after which nothing leads to the chains of classes that no place has."""
        return [DeleteElements(name, [lead]) for name, lead in map(self._lead, unused)]

    def _lead(self, which: Class) -> tuple[str, Element]:
        return lead_of(which, self.classes[which])

    def _add_lead(self, which: Class, sheet: Sheet) -> None:
        name, lead = self._lead(which)
        sheet.elements[name].append(lead)


class _Shared:
    """A set whose elements several ports may ask for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._uses: Counter[bytes] = Counter()
        """How many ports need each element that is in the kernel."""

    def enter(self, sheet: Sheet) -> None:
        """Count what a sheet asks for; leave there what is new."""
        asked, uses = sheet.elements[self._name], self._uses
        sheet.elements[self._name] = [each for each in _once(asked) if each.key not in uses]
        uses.update([each.key for each in asked])

    def change(self, before: Sheet, after: Sheet) -> None:
        """Count; leave in the sheets what nobody needs any more, and what nobody needed."""
        gone, come = before.elements[self._name], after.elements[self._name]
        if not gone and not come:
            return
        uses = self._uses
        touched = {each.key: each for each in (*gone, *come)}
        had = {key for key in touched if key in uses}
        uses.subtract([each.key for each in gone])
        uses.update([each.key for each in come])
        has = {key for key in touched if uses[key]}
        for key in touched.keys() - has:
            del uses[key]
        before.elements[self._name] = [touched[key] for key in had - has]
        after.elements[self._name] = [touched[key] for key in has - had]


def _made(chain: str, rules: Iterable[Rule]) -> Iterator[Change]:
    """Yield the steps that make the chain of a class, whatever there is of its name."""
    yield AddChain(Chain(chain))
    yield FlushChain(chain)
    for rule in rules:
        yield AddRule(rule)


def without_chains(names: Iterable[str]) -> list[Change]:
    """Return the steps that delete chains that nothing leads to."""
    return [step for name in names for step in (FlushChain(name), DeleteChain(name))]


def _once(elements: Iterable[Element]) -> list[Element]:
    return list({each.key: each for each in elements}.values())


def _moved(name: str, gone: list[Element], come: list[Element]) -> Iterator[Change]:
    """Yield the steps that replace some elements of a set with others; what is in both stays."""
    if gone and come:
        old, new = {each.key: each for each in gone}, {each.key: each for each in come}
        gone = [each for key, each in old.items() if new.get(key) != each]
        come = [each for key, each in new.items() if old.get(key) != each]
    if gone:
        yield DeleteElements(name, gone)
    if come:
        yield AddElements(name, come)
