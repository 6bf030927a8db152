"""ipsets: created, filled, read and destroyed through the kernel's own socket."""

import errno
import time
from collections.abc import Iterator, Mapping, Sequence

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset_listing import decode_members
from kubeproxy.kernel.ipset_messages import (
    ATTR_REVISION,
    BATCH,
    BUSY,
    CMD_ADD,
    CMD_CREATE,
    CMD_DEL,
    CMD_DESTROY,
    CMD_LIST,
    CMD_SWAP,
    CMD_TYPE,
    FULL,
    REASONS,
    SUBSYSTEM,
    TOO_MANY_SETS,
    Header,
    Member,
    SetType,
    decode_header,
    decode_refusal,
    encode_create,
    encode_entries,
    encode_head,
    encode_headers,
    encode_swap,
    encode_type,
)
from kubeproxy.kernel.netlink import KeptSocket, NetlinkError, error_code
from kubeproxy.kernel.netlink_messages import (
    AF,
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    attributes,
)
from kubeproxy.kernel.sets import SetChange, entry_text, without_replaced
from kubeproxy.model.addresses import Family

PATIENCE_SECONDS, PAUSE_SECONDS = 0.2, 0.005

_Job = tuple[int, str, SetType, Sequence[Member]]
"""Command, set, its type, and at most `BATCH` entries."""


class EntriesRefused(KernelError):
    """The kernel would not take (or let go of) some entries; everything else that was asked for is done."""

    def __init__(self, refused: Mapping[tuple[str, Member], str], full: Mapping[str, int] | None = None) -> None:
        self.refused = dict(refused)
        """Why, by set and entry."""
        self.full = dict(full or {})
        """Sets that had no room, each with how many entries it has."""
        (name, member), why = next(iter(self.refused.items()))
        more = f"; and {len(self.refused) - 1:,} more entries" if len(self.refused) > 1 else ""
        super().__init__(f"ipset {name}: entry {entry_text(member)}: {why}{more}")


class Ipset:
    """A family's sets, in the network namespace of the thread that calls first. Blocking; one thread at a time."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._netlink = KeptSocket(NETLINK_NETFILTER)
        self._kinds: dict[str, SetType] = {}
        self._patience_ends = self._patient_again = 0.0

    def create(self, name: str, kind: SetType) -> bool:
        """Make a set, if one of this name and type does not exist already, whatever its size.

        Returns False when the network namespace has all the sets that the kernel allows it. Raises KernelError.
        """
        try:
            self._make(name, kind)
        except NetlinkError as error:
            if error.code == TOO_MANY_SETS:
                return False
            if error.code != errno.EEXIST:
                raise
            self._check_kind(name, kind)
        self._kinds[name] = kind
        return True

    def _make(self, name: str, kind: SetType) -> None:
        (answer,) = self._request(CMD_TYPE, 0, name, encode_type(self._family, kind))
        revision = dict(attributes(answer[4:]))[ATTR_REVISION][0]
        self._request(
            CMD_CREATE, NLM_F_CREATE | NLM_F_EXCL, name, encode_create(self._family, name, kind, revision)
        )

    def _check_kind(self, name: str, kind: SetType) -> None:
        found = self._header(name)
        if not found.suits(kind) or found.family not in (0, kind.family_number(self._family)):
            raise KernelError(f"ipset {name}: somebody's set of another type has this name; ipset destroy {name}")

    def destroy(self, name: str) -> bool:
        """Remove a set unless a rule refers to it; return whether it is gone (or never was). Raises KernelError.

        iptables-nft's rules let go of a set a moment after they are gone, so a set in use is given a fifth of a
        second: once for all that are removed together.
        """
        while not self._try_destroy(name):
            now = time.monotonic()
            if now >= self._patient_again:
                self._patience_ends, self._patient_again = now + PATIENCE_SECONDS, now + 10 * PATIENCE_SECONDS
            if now >= self._patience_ends:
                return False
            time.sleep(PAUSE_SECONDS)
        self._kinds.pop(name, None)
        return True

    def _try_destroy(self, name: str) -> bool:
        try:
            self._request(CMD_DESTROY, 0, name, encode_head(self._family, name))
        except NetlinkError as error:
            if error.code == BUSY:
                return False
            if error.code not in (errno.ENOENT, errno.EINVAL):  # no such set; a kernel without any
                raise
        return True

    def members(self, name: str) -> set[Member]:
        """Return the entries of a set. Raises KernelError."""
        kind = self._kind(name)
        answers = self._request(CMD_LIST, NLM_F_DUMP, name, encode_head(self._family, name))
        return set(decode_members(answers, kind))

    def purge(self, name: str) -> None:
        """See `Sets.purge`: rules meet the one set or the other, never half of it. Raises KernelError."""
        self._renew(name, self._kind(name))

    def named(self, prefix: str) -> set[str]:
        """Return the names of this family's sets, and of those without a family, that begin so.

        None on a kernel without ipsets.
        """
        return {header.name for header in self._headers(prefix)}

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return how many entries each of them has."""
        return {header.name: header.elements for header in self._headers(prefix)}

    def size(self, name: str) -> int | None:
        """See `sets.SizedSets.size`: 30 µs, however many sets there are."""
        try:
            return self._header(name).elements
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return None
            raise

    def apply(self, changes: Sequence[SetChange]) -> None:
        """Change sets, see `Sets.apply`; an entry that is refused does not keep the others out.

        A full set that somebody made smaller than ours are is replaced by a larger one of its name. Raises
        EntriesRefused after everything else is done, NetlinkError at once for a set that is not there.
        """
        jobs = [job for name, adds, deletes in changes for job in self._jobs(name, adds, deletes)]
        refused: dict[tuple[str, Member], str] = {}
        full: set[str] = set()
        while jobs:
            jobs = list(self._round(jobs, refused, full))
        if refused:
            raise EntriesRefused(refused, {name: self._header(name).elements for name in full})

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """Add entries; one that is there stays. Raises as `apply` does."""
        self.apply([(name, entries, ())])

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """Delete entries; one that is not there is passed over. Raises as `apply` does."""
        self.apply([(name, (), entries)])

    def _jobs(self, name: str, adds: Sequence[Member], deletes: Sequence[Member]) -> Iterator[_Job]:
        if not adds and not deletes:
            return
        kind = self._kind(name)
        for command, entries in ((CMD_ADD, adds), (CMD_DEL, without_replaced(kind, adds, deletes))):
            for start in range(0, len(entries), BATCH):
                yield command, name, kind, entries[start : start + BATCH]

    def _round(
        self, jobs: Sequence[_Job], refused: dict[tuple[str, Member], str], full: set[str]
    ) -> Iterator[_Job]:
        """Send jobs; yield what is left to do of those that the kernel has stopped at an entry.

        Notes which entries were refused, and which sets have no room.
        """
        requests = (
            (SUBSYSTEM | command, 0, encode_entries(self._family, name, kind, entries))
            for command, name, kind, entries in jobs
        )
        with self._netlink as netlink:
            answers = netlink.pipeline_requests(requests, "ipsets")
        enlarged: set[str] = set()
        for (command, name, kind, entries), answer in zip(jobs, answers, strict=True):
            if not answer:
                continue
            code, line = error_code(answer), decode_refusal(answer)
            if not line:
                self._kinds.pop(name, None)
                raise NetlinkError(code, f"ipset {name}")
            is_full = code == FULL and kind is not SetType.PORT_NUMBERS
            if is_full and (name in enlarged or self._enlarge(name, kind)):
                enlarged.add(name)
                yield command, name, kind, entries[line - 1 :]
                continue
            why = REASONS.get(code) or str(NetlinkError(code, "the kernel says"))
            left_out = entries[line - 1 :] if is_full else entries[line - 1 : line]
            refused.update({(name, entry): why for entry in left_out})
            if is_full:
                full.add(name)
            elif line < len(entries):
                yield command, name, kind, entries[line:]

    def _enlarge(self, name: str, kind: SetType) -> bool:
        """Put a set of our size with the same entries in the place of a smaller one; False if it is no smaller."""
        if self._header(name).max_elements >= kind.max_elements:
            return False
        self._renew(name, kind)
        return True

    def _renew(self, name: str, kind: SetType) -> None:
        """Put a set with the same entries, those that ours may be, in the place of one."""
        other = name[:27] + "-new"
        self.destroy(other)  # left by somebody who ended half-way
        self._make(other, kind)
        self._kinds[other] = kind
        self.add(other, list(self.members(name)))
        self._request(CMD_SWAP, 0, name, encode_swap(self._family, name, other))
        self.destroy(other)

    def _kind(self, name: str) -> SetType:
        """Return a set's type: as we made it, or as the kernel says."""
        kind = self._kinds.get(name) or self._header(name).kind
        if kind is None:
            raise KernelError(f"ipset {name}: is of a type that is not in use here")
        self._kinds[name] = kind
        return kind

    def _header(self, name: str) -> Header:
        (answer,) = self._request(CMD_LIST, NLM_F_DUMP, name, encode_headers(name))
        return decode_header(answer)

    def _headers(self, prefix: str) -> list[Header]:
        try:
            answers = self._request(CMD_LIST, NLM_F_DUMP, "", encode_headers())
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.EINVAL):
                return []
            raise
        headers = (decode_header(answer) for answer in answers)
        return [each for each in headers if each.family in (0, AF[self._family]) and each.name.startswith(prefix)]

    def _request(self, command: int, flags: int, name: str, body: bytes) -> list[bytes]:
        with self._netlink as netlink:
            return netlink.request(SUBSYSTEM | command, flags, body, f"ipset {name}")
