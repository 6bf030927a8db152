"""ipsets: created, filled, read and destroyed through the kernel's own socket."""

import errno
import time
from collections.abc import Sequence

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipset_messages import (
    ATTR_FAMILY,
    ATTR_REVISION,
    ATTR_SETNAME,
    ATTR_TYPENAME,
    BATCH,
    BUSY,
    CMD_ADD,
    CMD_CREATE,
    CMD_DEL,
    CMD_DESTROY,
    CMD_HEADER,
    CMD_LIST,
    CMD_TYPE,
    SUBSYSTEM,
    TOO_MANY_SETS,
    Member,
    SetType,
    decode_members,
    encode_create,
    encode_entries,
    encode_head,
    encode_headers,
    encode_type,
)
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import (
    AF,
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    attributes,
)
from kubeproxy.model.addresses import Family

PATIENCE_SECONDS, PAUSE_SECONDS = 0.2, 0.005


class Ipset:
    """Sets of one family in the network namespace of the calling thread. Blocking."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._patience_ends = self._patient_again = 0.0

    def create(self, name: str, kind: SetType) -> bool:
        """Make a set, if one of this name and type does not exist already, whatever its size.

        Returns False when the network namespace has all the sets that the kernel allows it. Raises KernelError.
        """
        (answer,) = self._request(CMD_TYPE, 0, name, encode_type(self._family, kind))
        revision = dict(attributes(answer[4:]))[ATTR_REVISION][0]
        body = encode_create(self._family, name, kind, revision)
        try:
            self._request(CMD_CREATE, NLM_F_CREATE | NLM_F_EXCL, name, body)
        except NetlinkError as error:
            if error.code == TOO_MANY_SETS:
                return False
            if error.code != errno.EEXIST:
                raise
            self._check_kind(name, kind)
        return True

    def _check_kind(self, name: str, kind: SetType) -> None:
        (answer,) = self._request(CMD_HEADER, 0, name, encode_head(self._family, name))
        found = dict(attributes(answer[4:]))
        if (found[ATTR_TYPENAME].rstrip(b"\0"), found[ATTR_FAMILY][0]) != (
            kind.kernel_name.encode(),
            AF[self._family],
        ):
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
        """Return the entries of a set."""
        return set(decode_members(self._request(CMD_LIST, NLM_F_DUMP, name, encode_head(self._family, name))))

    def named(self, prefix: str) -> set[str]:
        """Return the names of this family's sets that begin so; none on a kernel without ipsets."""
        try:
            answers = self._request(CMD_LIST, NLM_F_DUMP, "", encode_headers())
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.EINVAL):
                return set()
            raise
        found = [dict(attributes(answer[4:])) for answer in answers]
        own = [each for each in found if each[ATTR_FAMILY][0] == AF[self._family]]
        names = {each[ATTR_SETNAME].rstrip(b"\0").decode(errors="replace") for each in own}
        return {name for name in names if name.startswith(prefix)}

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """Add entries; one that is there stays."""
        self._batches(CMD_ADD, name, entries)

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """Delete entries; one that is not there is passed over."""
        self._batches(CMD_DEL, name, entries)

    def _batches(self, command: int, name: str, entries: Sequence[Member]) -> None:
        for start in range(0, len(entries), BATCH):
            self._request(command, 0, name, encode_entries(self._family, name, entries[start : start + BATCH]))

    def _request(self, command: int, flags: int, name: str, body: bytes) -> list[bytes]:
        # A socket a call: the calls are few, and it must belong to the caller's network namespace.
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            return netlink.request(SUBSYSTEM | command, flags, body, f"ipset {name}")
