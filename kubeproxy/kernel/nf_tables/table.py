"""One table of nf_tables in the kernel, through sockets of our own; see `base.NfTable`. Blocking."""

import contextlib
import errno
from collections.abc import Iterable, Iterator, Sequence

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import DumpInterrupted, KeptSocket, NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, NLM_F_DUMP, netfilter_head
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import NAME, Refused
from kubeproxy.kernel.nf_tables.batch import Part, TooLarge, datagram, encode, transactions
from kubeproxy.kernel.nf_tables.element_messages import decode_elements
from kubeproxy.kernel.nf_tables.fields import SPOKEN
from kubeproxy.kernel.nf_tables.numbers import Message
from kubeproxy.kernel.nf_tables.object_messages import (
    Undecodable,
    decode_chain,
    decode_dormant,
    decode_generation,
    decode_rule,
    decode_set,
    decode_table_handle,
    encode_elements_of,
    encode_rules_of,
    encode_set_name,
    encode_table_name,
    table_of,
)
from kubeproxy.kernel.nf_tables.refusals import Refusal, explained, refused_element
from kubeproxy.kernel.nf_tables.socket import BatchSocket
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family


class KernelTable:
    """See `NfTable`; to be used in one network namespace, where its sockets are opened. One thread at a time."""

    def __init__(self, family: Family, name: str = NAME, writers: Writers | None = None) -> None:
        """See the class; ``writers`` are told of the port that transactions come from."""
        self._family = family
        self._name = name
        self._where = f"nf_tables {SPOKEN[family]} {name}"
        self._writers = writers
        self._batches: BatchSocket | None = None
        self._questions = KeptSocket(NETLINK_NETFILTER)

    @property
    def family(self) -> Family:
        """See `NfTable.family`."""
        return self._family

    def close(self) -> None:
        """Close its sockets; they are opened anew when it is used again."""
        self._questions.close()
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def commit(self, changes: Iterable[t.Change], after: int | None = None) -> int:
        """See `NfTable.commit`. With ENOBUFS it is not known what has become of the transaction."""
        steps = changes if isinstance(changes, Sequence) else list(changes)
        with self._transactions() as netlink:
            try:
                batches = list(transactions(encode(self._family, self._name, steps), netlink.most_bytes))
            except TooLarge as error:
                hint = explained(errno.EMSGSIZE, self._where, None)
                raise Refused(errno.EMSGSIZE, f"{hint} ({error})") from None
            for number, parts in enumerate(batches):
                first = netlink.reserve(len(parts) + 2)
                sent = datagram(parts, first, after + number if after is not None else None)
                for refusal in netlink.transact(sent, first, first + len(parts)):
                    raise self._refused(refusal, parts[0].change, _part(parts, refusal, first), steps)
        return len(batches)

    @contextlib.contextmanager
    def _transactions(self) -> Iterator[BatchSocket]:
        """Lend the socket for them; after trouble other than a refusal the next use has a fresh one."""
        if self._batches is None:
            self._batches = BatchSocket(self._writers)
        try:
            yield self._batches
        except Refused:
            raise
        except BaseException:
            self.close()
            raise

    def _refused(self, refusal: Refusal, done: int, part: Part | None, steps: Sequence[t.Change]) -> Refused:
        if part is None:
            return Refused(refusal.code, explained(refusal.code, self._where, None), done=done)
        change = steps[part.change]
        element = refused_element(refusal, part, change)
        what = explained(refusal.code, self._where, change, element, self._family, self._known_sets(steps))
        return Refused(refusal.code, what, part.change, element, done)

    def _known_sets(self, steps: Sequence[t.Change]) -> dict[str, t.SetSpec]:
        """Return the sets that an explanation may be about."""
        with contextlib.suppress(KernelError, OSError):
            found = self.sets()
            return found | {step.spec.name: step.spec for step in steps if isinstance(step, t.AddSet)}
        return {}

    def exists(self) -> bool:
        """See `NfTable.exists`."""
        return bool(self._found())

    def is_dormant(self) -> bool:
        """See `NfTable.is_dormant`."""
        return any(map(decode_dormant, self._found()))

    def handle(self) -> int:
        """See `NfTable.handle`."""
        return next(map(decode_table_handle, self._found()), 0)

    def _found(self) -> list[bytes]:
        """Return the kernel's answer about the table, if there is one."""
        return self._asked(Message.GET_TABLE, encode_table_name(self._family, self._name))

    def chains(self) -> dict[str, t.Chain]:
        """See `NfTable.chains`."""
        answers = self._listed(Message.GET_CHAIN, netfilter_head(self._family))
        with self._understanding():
            return {chain.name: chain for chain in map(decode_chain, answers)}

    def rules(self, chain: str) -> list[t.Rule]:
        """See `NfTable.rules`."""
        return [rule for _, rule in self.numbered_rules(chain)]

    def numbered_rules(self, chain: str) -> list[tuple[int, t.Rule]]:
        """See `NfTable.numbered_rules`."""
        body = encode_rules_of(self._family, self._name, chain)
        answers = self._listed(Message.GET_RULE, body)
        with self._understanding():
            found = [decode_rule(answer, self._family) for answer in answers]
        # Kernels before 4.7 do not heed which chain was asked for.
        return [(handle, rule) for handle, rule in found if rule.chain == chain]

    def sets(self) -> dict[str, t.SetSpec]:
        """See `NfTable.sets`."""
        body = encode_set_name(self._family, self._name)
        answers = self._listed(Message.GET_SET, body)
        with self._understanding():
            found = [decode_set(answer, self._family) for answer in answers]
        return {spec.name: spec for spec in found}

    def elements(self, name: str) -> Iterator[t.Element]:
        """See `NfTable.elements`. Through a socket of its own: the caller may ask other things meanwhile."""
        body, what = encode_elements_of(self._family, self._name, name), f"{self._where}, set {name}"
        before = self.generation()
        with NetlinkSocket(NETLINK_NETFILTER) as netlink, self._understanding():
            try:
                for answer in netlink.dump(Message.GET_ELEMENTS, body, what):
                    yield from decode_elements(answer)
            except NetlinkError as error:
                raise Refused(error.code, str(error)) from None
        # Of everything else the kernel says itself that it changed while it was read, but not of elements.
        if self.generation() != before:
            raise DumpInterrupted(f"{what}: changed while it was read")

    def generation(self) -> int:
        """See `NfTable.generation`."""
        answers = self._asked(Message.GET_GENERATION, netfilter_head(None))
        with self._understanding():
            return decode_generation(answers)

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        """Raise Refused (EBADMSG) where an answer of the kernel makes no sense."""
        try:
            yield
        except Undecodable as error:
            raise Refused(errno.EBADMSG, f"{self._where}: {error}") from error

    def _listed(self, kind: int, body: bytes) -> list[bytes]:
        """Return the answers to a dump that are about this table; the kernel may tell of all."""
        return [answer for answer in self._asked(kind, body, NLM_F_DUMP) if table_of(answer) == self._name]

    def _asked(self, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
        """Return the kernel's answers; none when there is no such thing. Raises Refused, DumpInterrupted."""
        try:
            with self._questions as netlink:
                if flags & NLM_F_DUMP:
                    return list(netlink.dump(kind, body, self._where))
                return netlink.request(kind, 0, body, self._where)
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return []
            # EINVAL is what nfnetlink says of a subsystem that it does not know.
            code = errno.EOPNOTSUPP if error.code == errno.EINVAL else error.code
            raise Refused(code, explained(code, self._where, None)) from None


def _part(parts: Sequence[Part], refusal: Refusal, first: int) -> Part | None:
    """Return the message that was refused, None when it was the batch as such."""
    number = refusal.sequence - first - 1
    return parts[number] if 0 <= number < len(parts) else None
