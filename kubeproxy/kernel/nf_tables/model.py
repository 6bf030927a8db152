"""What nf_tables does with the steps of transactions, as far as backends rely on it; `fake.py` is built on it.

Pure. tests/netns/test_nf_tables_model.py holds it against the real kernel: the same steps get the same answers.
"""

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.fields import data_bytes, fields_bytes
from kubeproxy.kernel.nf_tables.registers import read, written
from kubeproxy.model.addresses import Family

DEEPEST = 16
"""So many chains may lead to one another (NFT_JUMP_STACK_SIZE)."""
_HOOKS = {
    "nat": (t.Hook.PREROUTING, t.Hook.INPUT, t.Hook.OUTPUT, t.Hook.POSTROUTING),
    "route": (t.Hook.OUTPUT,),
    "filter": tuple(t.Hook),
}
_LOWEST_NAT_PRIORITY = -199
"""Connection tracking comes at -200, and nat after it."""
_WHERE: dict[type[ex.Expression], tuple[str, tuple[t.Hook, ...]]] = {
    ex.DestinationNat: ("nat", (t.Hook.PREROUTING, t.Hook.OUTPUT)),
    ex.Masquerade: ("nat", (t.Hook.POSTROUTING,)),
    ex.Reject: ("", (t.Hook.PREROUTING, t.Hook.INPUT, t.Hook.FORWARD, t.Hook.OUTPUT)),
}
"""In chains of which kind and hooks an expression may come to pass."""

_Key = tuple[bytes, bytes | None]


class No(Exception):
    """The kernel refuses a step."""

    def __init__(self, code: int, element: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.element = element


class Contents:
    """A table: what is in it. Changed by `carry_out`; `copy` costs as much as what is changed afterwards."""

    def __init__(self, family: Family, comment: str = "") -> None:
        self.family = family
        self.comment = comment
        self.dormant = False
        self.handle = 0
        """The table's number."""
        self.chains: dict[str, t.Chain] = {}
        self.rules: dict[str, list[t.Rule]] = {}
        self.handles: dict[str, list[int]] = {}
        """The rules' numbers; none is given out twice."""
        self._last_handle = 0
        self.sets: dict[str, t.SetSpec] = {}
        self.elements: dict[str, dict[_Key, t.Element]] = {}
        self.is_changed = False
        """Whether the kernel has noted any change since it was copied; without one the generation stays."""
        self.releases_at_once = True
        """Whether a chain may go in the transaction that deletes the element that led to it (since Linux 6.2)."""
        self._has_turned = self._has_lost_base = False
        """Whether it was put to sleep or woken, or a base chain went, since it was copied."""
        self._held: set[str] = set()
        self._shared: set[str] = set()
        """Names of sets whose elements another copy has too."""

    def copy(self) -> "Contents":
        """Return another that can be changed by itself."""
        other = Contents(self.family, self.comment)
        other.dormant, other.handle = self.dormant, self.handle
        other.chains, other.sets = dict(self.chains), dict(self.sets)
        other.rules = {name: list(rules) for name, rules in self.rules.items()}
        other.handles = {name: list(handles) for name, handles in self.handles.items()}
        other._last_handle = self._last_handle
        other.elements = dict(self.elements)
        other._shared = set(self.elements)
        other.releases_at_once = self.releases_at_once
        return other

    def carry_out(self, change: t.Change) -> None:
        """Do one step; raise No when the kernel would not."""
        self.is_changed |= self._changes(change)
        match change:
            case t.AddChain(chain):
                self._add_chain(chain)
            case t.FlushChain(name):
                self._chain(name)
                self.rules[name], self.handles[name] = [], []
            case t.DeleteChain(name):
                self._delete_chain(name)
            case t.AddRule(rule):
                self._add_rule(rule)
            case t.AddSet(spec):
                self._add_set(spec)
            case t.FlushSet(name):
                self._set(name)
                self._hold(*self.elements[name].values())
                self.elements[name] = {}
                self._shared.discard(name)
            case t.DeleteSet(name):
                self._delete_set(name)
            case t.AddElements(name, elements) | t.DeleteElements(name, elements):
                work = self._add_element if isinstance(change, t.AddElements) else self._delete_element
                self._each(self._set(name), elements, work)
            case _:
                raise TypeError(f"{type(change).__name__} is no step of a transaction")

    def _changes(self, change: t.Change) -> bool:
        """Whether the kernel notes a change: for what is to be made it always does, though it be there already."""
        match change:
            case t.FlushChain(name):
                return bool(self.rules.get(name))
            case t.FlushSet(name):
                return bool(self.elements.get(name))
            case t.AddElements(name, elements):
                held = self.elements.get(name, {})
                found = ((held.get((each.key, each.end)), each) for each in elements)
                return any(there is None or there.timeout != each.timeout for there, each in found)
            case _:
                return True

    def turn(self, dormant: bool) -> None:
        """Put the table to sleep, or wake it; raise No when the kernel would not."""
        if dormant is self.dormant:
            return
        if self._has_turned or self._has_lost_base:
            raise No(errno.EINVAL)
        self.dormant, self._has_turned, self.is_changed = dormant, True, True

    def validate(self) -> None:
        """Raise No when what base chains lead to is too deep, loops, or may not come to pass there."""
        for chain in self.chains.values():
            if chain.base is not None:
                self._follow(chain.name, chain.base, 0)

    def learn(self, name: str, element: t.Element) -> None:
        """Have a packet add an element to a dynamic set, or begin its time anew."""
        self._own(name)[element.key, element.end] = element

    def _chain(self, name: str) -> t.Chain:
        if name not in self.chains:
            raise No(errno.ENOENT)
        return self.chains[name]

    def _set(self, name: str) -> t.SetSpec:
        if name not in self.sets:
            raise No(errno.ENOENT)
        return self.sets[name]

    def _own(self, name: str) -> dict[_Key, t.Element]:
        """Return the elements of a set, to be changed."""
        if name in self._shared:
            self.elements[name] = dict(self.elements[name])
            self._shared.discard(name)
        return self.elements[name]

    def _add_chain(self, chain: t.Chain) -> None:
        there = self.chains.get(chain.name)
        if there is not None:
            if chain.base is not None and chain.base != there.base:
                raise No(errno.EOPNOTSUPP)
            return
        if chain.base is not None:
            if self._has_turned:
                raise No(errno.EINVAL)
            kind, hook = chain.base.kind, chain.base.hook
            if kind not in _HOOKS:
                raise No(errno.ENOENT)
            if hook not in _HOOKS[kind] or (kind == "nat" and chain.base.priority < _LOWEST_NAT_PRIORITY):
                raise No(errno.EOPNOTSUPP)
        self.chains[chain.name] = chain
        self.rules[chain.name], self.handles[chain.name] = [], []

    def _delete_chain(self, name: str) -> None:
        self._chain(name)
        if name in self._held or any(each.chain == name for each in self._verdicts()):
            raise No(errno.EBUSY)
        self._has_lost_base |= self.chains[name].base is not None
        del self.chains[name], self.rules[name], self.handles[name]

    def _verdicts(self) -> Iterator[ex.Decide]:
        """Yield every verdict there is: a rule that leads to its own chain holds it too."""
        for rules in self.rules.values():
            yield from (each for rule in rules for each in rule.expressions if isinstance(each, ex.Decide))
        for name, spec in self.sets.items():
            if spec.data == t.VERDICTS:
                yield from (each.data for each in self.elements[name].values() if isinstance(each.data, ex.Decide))

    def _check_target(self, decide: ex.Decide) -> None:
        if (
            decide.word in (ex.VerdictWord.JUMP, ex.VerdictWord.GOTO)
            and self._chain(decide.chain).base is not None
        ):
            raise No(errno.EOPNOTSUPP)

    def _add_rule(self, rule: t.Rule) -> None:
        self._chain(rule.chain)
        full: set[int] = set()
        for each in rule.expressions:
            if isinstance(each, ex.DestinationNat) and each.is_ipv6 is not (self.family is Family.V6):
                raise No(errno.EOPNOTSUPP)
            if any(not full.issuperset(span.registers()) for span in read(each, self.family, self._lengths)):
                raise No(errno.ENODATA)
            full.update(register for span in written(each, self._lengths) for register in span.registers())
            if isinstance(each, ex.Decide):
                self._check_target(each)
            elif isinstance(each, ex.Lookup):
                _check_lookup(each, self._set(each.set))
            elif isinstance(each, ex.Dynamic):
                _check_dynamic(each, self._set(each.set))
        self.rules[rule.chain].append(rule)
        self._last_handle += 1
        self.handles[rule.chain].append(self._last_handle)

    def _lengths(self, name: str) -> tuple[int, int]:
        spec = self._set(name)
        return fields_bytes(spec.key, self.family), data_bytes(spec, self.family)

    def _add_set(self, spec: t.SetSpec) -> None:
        there = self.sets.get(spec.name)
        if there is None:
            self.sets[spec.name] = spec
            self.elements[spec.name] = {}
        elif _shape(there, self.family) != _shape(spec, self.family):
            raise No(errno.EEXIST)

    def _delete_set(self, name: str) -> None:
        self._set(name)
        used = (each for rules in self.rules.values() for rule in rules for each in rule.expressions)
        if any(isinstance(each, ex.Lookup | ex.Dynamic) and each.set == name for each in used):
            raise No(errno.EBUSY)
        del self.sets[name], self.elements[name]
        self._shared.discard(name)

    @staticmethod
    def _each(
        spec: t.SetSpec, elements: Sequence[t.Element], work: Callable[[t.SetSpec, t.Element], None]
    ) -> None:
        for index, element in enumerate(elements):
            try:
                work(spec, element)
            except No as error:
                raise No(error.code, index) from None

    def _add_element(self, spec: t.SetSpec, element: t.Element) -> None:
        self._check_shape(spec, element)
        members = self._own(spec.name)
        there = members.get((element.key, element.end))
        if there is not None:
            if there.data != element.data:
                raise No(errno.EEXIST)
            if there.timeout != element.timeout:  # since Linux 6.12
                members[element.key, element.end] = msgspec.structs.replace(there, timeout=element.timeout)
            return
        if spec.interval and any(_overlaps(each, element) for each in members.values()):
            raise No(errno.EEXIST)
        if spec.size and len(members) >= spec.size:
            raise No(errno.ENFILE)
        members[element.key, element.end] = element

    def _check_shape(self, spec: t.SetSpec, element: t.Element) -> None:
        keys = (element.key,) if element.end is None else (element.key, element.end)
        length = fields_bytes(spec.key, self.family)
        wrong = any(len(each) != length for each in keys) or (element.end is not None and not spec.interval)
        if wrong or (element.timeout and not spec.dynamic) or (element.data is None) is not (spec.data is None):
            raise No(errno.EINVAL)
        if isinstance(element.data, ex.Decide):
            if spec.data != t.VERDICTS:
                raise No(errno.EINVAL)
            self._check_target(element.data)
        elif element.data is not None and len(element.data) != data_bytes(spec, self.family):
            raise No(errno.EINVAL)

    def _delete_element(self, spec: t.SetSpec, element: t.Element) -> None:
        if len(element.key) != fields_bytes(spec.key, self.family):
            raise No(errno.EINVAL)
        there = self._own(spec.name).pop((element.key, element.end), None)
        if there is None:
            raise No(errno.ENOENT)
        self._hold(there)

    def _hold(self, *gone: t.Element) -> None:
        if not self.releases_at_once:
            self._held.update(each.data.chain for each in gone if isinstance(each.data, ex.Decide))

    def _follow(self, name: str, base: t.Base, depth: int) -> None:
        if depth == DEEPEST:
            raise No(errno.EMLINK)
        for rule in self.rules[name]:
            for each in rule.expressions:
                _check_place(each, base)
                for target in self._targets(each):
                    self._follow(target, base, depth + 1)

    def _targets(self, expression: ex.Expression) -> Iterator[str]:
        """Yield the chains that an expression leads to."""
        decides: Iterable[object]
        if isinstance(expression, ex.Decide):
            decides = (expression,)
        elif isinstance(expression, ex.Lookup) and expression.verdicts:
            decides = (each.data for each in self.elements[expression.set].values())
        else:
            return
        yield from dict.fromkeys(each.chain for each in decides if isinstance(each, ex.Decide) and each.chain)


def _check_place(expression: ex.Expression, base: t.Base) -> None:
    where = _WHERE.get(type(expression))
    if where is None:
        return
    kind, hooks = where
    if base.hook not in hooks or kind not in ("", base.kind):
        raise No(errno.EOPNOTSUPP)


def _check_lookup(lookup: ex.Lookup, spec: t.SetSpec) -> None:
    """A map may be asked as a set is; who wants its data must want what there is."""
    wants = t.VERDICTS if lookup.verdicts else lookup.to is not None
    has = spec.data if spec.data == t.VERDICTS else spec.data is not None
    if wants and (wants != has or lookup.inverted):
        raise No(errno.EINVAL)


def _check_dynamic(dynamic: ex.Dynamic, spec: t.SetSpec) -> None:
    # The kernel also takes a set that is not dynamic if it happens to keep it in the same way.
    if not spec.dynamic or (dynamic.data is not None and spec.data is None):
        raise No(errno.EOPNOTSUPP)
    if (dynamic.data is None) is not (spec.data is None):
        raise No(errno.EINVAL)


def _shape(spec: t.SetSpec, family: Family) -> tuple[object, ...]:
    """Return what the kernel compares when a set is there already."""
    return spec.key, spec.data, spec.interval, spec.dynamic


def _overlaps(one: t.Element, other: t.Element) -> bool:
    """Whether the kernel would notice that the other, which is new, lies within the one in part."""
    end = one.end if one.end is not None else one.key
    return any(one.key <= each <= end for each in (other.key, other.end) if each is not None)
