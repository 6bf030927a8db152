"""Sets in a table of nftables, by the `nft` program: what ipsets are, on a machine that has no iptables.

Elements are changed by one `nft -f -`, which is one transaction: all of it or nothing, 10 to 20 ms however many
elements a set has. What is in the sets is remembered, so a change need not read them. Whether anybody else has
changed anything the kernel tells by the number of its last transaction, in microseconds.
"""

import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kubeproxy.kernel import nft_set_text as text
from kubeproxy.kernel.exec import CommandFailed, CommandMissing, Exec, KernelError, Result
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER
from kubeproxy.kernel.sets import SetChange, without_replaced
from kubeproxy.kernel.xtables import has_nft, nft_generation, nft_has_table
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record

MOST_REFUSED = 16
"""With more elements refused than this, it is not the elements that are wrong."""
TIMEOUT_SECONDS = 300


class _Step(Record, frozen=True, kw_only=True):
    """What happens at one place of a set; all of it or nothing."""

    name: str
    kind: SetType
    out: tuple[Member, ...]
    into: tuple[Member, ...]


class NftProgram:
    """The `nft` program, in the network namespace of the calling thread. Blocking."""

    def __init__(self, execute: Exec) -> None:
        self._execute = execute

    def is_installed(self) -> bool:
        """Return whether there is such a program."""
        return shutil.which("nft") is not None

    def commit(self, commands: str, *, check_only: bool = False) -> None:
        """Carry out commands as one transaction. Raises CommandFailed, CommandMissing."""
        argv = ["nft", *(["-c"] if check_only else []), "-f", "-"]
        try:
            self._execute.run(argv, stdin=commands, timeout=TIMEOUT_SECONDS)
        except CommandMissing:
            raise CommandMissing("nft: not installed (Debian: apt-get install nftables)") from None

    def listed(self, family: Family, table: str) -> Mapping[str, Any] | None:
        """List a table with all that is in it; None when there is none."""
        argv = ["nft", "-j", "list", "table", text.spoken(family), table]
        result = self._execute.run(argv, check=False, timeout=TIMEOUT_SECONDS)
        if result.status == 0:
            found: Mapping[str, Any] = json.loads(result.stdout)
            return found
        if _is_absent(result):
            return None
        raise CommandFailed(argv, result.status, result.stderr)

    def deleted(self, *what: str) -> bool:
        """Delete an object; return whether it is gone (or never was), and not in use."""
        result = self._execute.run(["nft", "delete", *what], check=False)
        if result.status and not _is_absent(result):
            if "busy" in result.stderr:
                return False
            raise CommandFailed(["nft", "delete", *what], result.status, result.stderr)
        return True


class NftSets:
    """See `sets.Sets`: those of one family, all in one table. One thread at a time."""

    def __init__(self, execute: Exec, family: Family, table: str) -> None:
        self._nft = NftProgram(execute)
        self._family = family
        self._table = table
        self._kinds: dict[str, SetType | None] = {}
        self._members: dict[str, set[Member]] = {}
        self._has_chains = False
        self._known_at: bytes | None = None
        """The kernel's transaction after which it held what we remember."""
        self._is_known = False

    def create(self, name: str, kind: SetType) -> bool:
        """See `Sets.create`; there is always room. Raises KernelError."""
        self._read()
        if name not in self._kinds:
            self._commit(text.declaration(self._family, self._table, name, kind))
            self._kinds[name], self._members[name] = kind, set()
        elif self._kinds[name] is not kind:
            where = f"{text.spoken(self._family)} {self._table} {name}"
            raise KernelError(f"nftables set {where}: somebody's set of another type has this name; delete it")
        return True

    def members(self, name: str) -> set[Member]:
        """See `Sets.members`. Raises KernelError."""
        self._read()
        self._kind(name)
        return set(self._members[name])

    def purge(self, name: str) -> None:
        """See `Sets.purge`. Raises KernelError."""
        self._read()
        kind, where = self._kind(name), f"{text.spoken(self._family)} {self._table}"
        step = _Step(name=name, kind=kind, out=(), into=tuple(text.stored(kind, self._members[name])))
        commands = _commands(self._family, self._table, [step]) if step.into else ""
        self._commit(f"flush {text.word(kind)} {where} {name}\n{commands}")

    def named(self, prefix: str) -> set[str]:
        """See `Sets.named`; none on a kernel without nftables."""
        if not has_nft():
            return set()
        self._read()
        return {name for name in self._kinds if name.startswith(prefix)}

    def sizes(self, prefix: str) -> dict[str, int]:
        """See `Sets.sizes`; sets are read for it only when somebody has changed any rules or sets."""
        if self._known_at is None or nft_generation() != self._known_at:
            return {name: size for name in self._kinds if name.startswith(prefix) for size in self._counted(name)}
        known = ((name, kind) for name, kind in self._kinds.items() if kind and name.startswith(prefix))
        return {name: len(text.stored(kind, self._members[name])) for name, kind in known}

    def apply(self, changes: Sequence[SetChange]) -> None:
        """See `Sets.apply`: all of it in one transaction. Raises EntriesRefused, KernelError."""
        if not self._is_known:
            self._read()
        steps, after = self._planned(changes)
        if not steps:
            self._members |= after
            return
        try:
            self._commit(_commands(self._family, self._table, steps))
        except CommandFailed:
            # Somebody else may have changed the sets: what is there is read again.
            self._forget()
            self._read()
            steps, after = self._planned(changes)
            self._one_by_one(steps)
        self._members |= after

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """See `Sets.add`."""
        self.apply([(name, entries, ())])

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """See `Sets.delete`."""
        self.apply([(name, (), entries)])

    def destroy(self, name: str) -> bool:
        """See `Sets.destroy`; the table goes with its last set, unless there are chains in it."""
        if not has_nft():
            return True
        self._read()
        kind = self._kinds.get(name)
        if name not in self._kinds:
            return True
        where = text.spoken(self._family), self._table
        if len(self._kinds) == 1 and not self._has_chains:
            gone = self._nft.deleted("table", *where)
        else:
            gone = self._nft.deleted(text.word(kind) if kind else "set", *where, name)
        self._forget()
        return gone

    def _forget(self) -> None:
        self._is_known, self._known_at = False, None

    def _read(self) -> None:
        """Learn what the kernel holds, unless that is known. Raises KernelError."""
        generation = nft_generation()
        if self._is_known and generation == self._known_at:
            return
        # Most machines have no such table, and a program takes a hundred times as long to say so.
        has_table = nft_has_table(self._family, self._table)
        listed = self._nft.listed(self._family, self._table) if has_table else None
        self._kinds, self._members = text.read_sets(self._family, listed) if listed else ({}, {})
        self._has_chains = bool(listed) and text.has_chains(listed or {})
        self._is_known = True
        self._known_at = generation if nft_generation() == generation else None

    def _commit(self, commands: str) -> None:
        self._nft.commit(commands)
        if self._known_at is not None:
            after = nft_generation()
            ours_alone = int.from_bytes(after, "big") == int.from_bytes(self._known_at, "big") + 1
            self._known_at = after if ours_alone else None

    def _counted(self, name: str) -> Iterator[int]:
        """Yield how many elements the kernel has in a set; nothing when there is no such set."""
        body = text.encode_elements(self._family, self._table, name)
        try:
            with NetlinkSocket(NETLINK_NETFILTER) as netlink:
                what = f"nftables set {name}"
                yield sum(text.count_elements(answer) for answer in netlink.dump(text.MSG_GET_SETELEM, body, what))
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise

    def _kind(self, name: str) -> SetType:
        kind = self._kinds.get(name)
        if kind is None:
            raise KernelError(f"nftables set {name}: there is no such set of ours in table {self._table}")
        return kind

    def _planned(self, changes: Sequence[SetChange]) -> tuple[list[_Step], dict[str, set[Member]]]:
        """Return what is to be done, and what sets hold then."""
        after: dict[str, set[Member]] = {}
        steps: list[_Step] = []
        for name, adds, deletes in changes:
            if not adds and not deletes:
                continue
            kind = self._kind(name)
            before = after.get(name, self._members[name])
            after[name] = _changed(kind, before, adds, without_replaced(kind, adds, deletes))
            steps += _steps(name, kind, before, after[name], {text.place(each) for each in (*adds, *deletes)})
        return steps, after

    def _one_by_one(self, steps: Sequence[_Step]) -> None:
        """Have done what the kernel does; raise EntriesRefused for the rest when that is a matter of elements."""
        refused: dict[tuple[str, Member], str] = {}
        waiting = [list(steps)] if steps else []
        while waiting:
            some = waiting.pop()
            try:
                self._commit(_commands(self._family, self._table, some))
            except CommandFailed as error:
                if len(some) > 1:
                    half = len(some) // 2
                    waiting += [some[half:], some[:half]]
                    continue
                step = some[0]
                refused |= {(step.name, each): _reason(error) for each in (*step.into, *step.out)}
                if len(refused) > MOST_REFUSED:
                    self._forget()
                    raise
        if refused:
            self._forget()
            raise EntriesRefused(refused)


def _changed(kind: SetType, before: set[Member], adds: Sequence[Member], deletes: Sequence[Member]) -> set[Member]:
    """Return what a set holds after a change."""
    if kind is not SetType.MARKS:
        return (before | set(adds)).difference(deletes)
    marks = {text.place(each): each for each in (*before, *adds)}
    for each in deletes:
        marks.pop(text.place(each), None)
    return set(marks.values())


def _steps(
    name: str, kind: SetType, before: set[Member], after: set[Member], touched: set[object]
) -> Iterator[_Step]:
    """Yield what makes the one of the other, at the places that are touched."""
    if kind in (SetType.MARKS, SetType.RANGES):
        before = text.stored(kind, [each for each in before if text.place(each) in touched])
        after = text.stored(kind, [each for each in after if text.place(each) in touched])
        gone, come = _by_place(before - after), _by_place(after - before)
        for place in dict.fromkeys((*gone, *come)):
            out, into = tuple(gone.get(place, ())), tuple(come.get(place, ()))
            yield _Step(name=name, kind=kind, out=out, into=into)
        return
    for each in sorted(touched, key=str):
        if (each in before) is not (each in after):
            entry: Any = each
            out, into = ((), (entry,)) if each in after else ((entry,), ())
            yield _Step(name=name, kind=kind, out=out, into=into)


def _by_place(members: Iterable[Member]) -> dict[object, list[Member]]:
    found: dict[object, list[Member]] = {}
    for each in sorted(members, key=str):
        found.setdefault(text.place(each), []).append(each)
    return found


def _commands(family: Family, table: str, steps: Sequence[_Step]) -> str:
    """Write steps as one transaction: what leaves comes first, as ranges that overlap are refused."""
    where = f"{text.spoken(family)} {table}"
    lists: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        for each in step.out:
            lists.setdefault(("delete", step.name), []).append(text.key_text(step.kind, each))
    for step in steps:
        for each in step.into:
            lists.setdefault(("add", step.name), []).append(text.element_text(step.kind, each))
    return "".join(
        f"{verb} element {where} {name} {{ {', '.join(elements)} }}\n" for (verb, name), elements in lists.items()
    )


def _reason(error: CommandFailed) -> str:
    first = next((line for line in error.stderr.splitlines() if "Error:" in line), str(error))
    return first.partition("Error: ")[2] or first


def _is_absent(result: Result) -> bool:
    return "No such file or directory" in result.stderr
