"""What the kernel's answers to a run of IPVS commands mean. Pure.

A refused command is somebody's fault: of a scheduler that the kernel lacks, of others who edit virtual servers
beside us, of one Service, or of the moment. What to do about it is the backend's business.
"""

import errno
from collections.abc import Callable, Collection, Sequence

from kubeproxy.kernel.ipvs_types import Command, Destination, ServerKey, Verb
from kubeproxy.model.addresses import host_port
from kubeproxy.model.objects import Record

_OF_SERVERS = (Verb.ADD_SERVER, Verb.SET_SERVER)
_OF_DELETION = (Verb.DELETE_SERVER, Verb.DELETE_DESTINATION)
_GONE = (errno.ESRCH, errno.ENOENT)
_TRANSIENT = (errno.ENOBUFS, errno.ENOMEM, errno.EBUSY, errno.EAGAIN, errno.EINTR)


class Judgement(Record, frozen=True, kw_only=True):
    """Whose fault the refusals of one run are."""

    lacking: frozenset[str] = frozenset()
    """Schedulers that the kernel does not have."""
    taken: tuple[ServerKey, ...] = ()
    """Virtual servers that stand there already, though we have not made them."""
    edited: str = ""
    """How what stands differs from what we wrote, "" if it does not show."""
    culprits: tuple[tuple[ServerKey, str], ...] = ()
    """Virtual servers that the kernel will not have, each with its complaint."""
    endpoints: tuple[tuple[ServerKey, Destination, str], ...] = ()
    """Destinations that it will not have, though it has their virtual servers: these serve without."""
    momentary: str = ""
    """A complaint that another time there may not be."""

    def __bool__(self) -> bool:
        """Return whether the run has failed; without some `endpoints` it has not."""
        return bool(self.lacking or self.taken or self.edited or self.culprits or self.momentary)

    @property
    def text(self) -> str:
        """What to say of it, the worst first; "" when there is nothing."""
        taken = (f"virtual server {key_text(key)} is somebody else's" for key in self.taken)
        lacking = (f"the kernel has no scheduler {name}: modprobe ip_vs_{name}" for name in sorted(self.lacking))
        complaints = (self.momentary, *(text for _, text in self.culprits), self.edited, *taken, *lacking)
        return next(filter(None, complaints), "")


def judge(commands: Sequence[Command], codes: Sequence[int], explain: Callable[[int], str]) -> Judgement:
    """Judge a run by each command's error number (0: none), which ``explain`` puts into words."""
    lacking: set[str] = set()
    taken: list[ServerKey] = []
    culprits: dict[ServerKey, str] = {}
    endpoints: list[tuple[ServerKey, Destination, str]] = []
    edited = momentary = ""
    hopeless: set[ServerKey] = set()
    for command, code in zip(commands, codes, strict=True):
        key, verb = command.server.key, command.verb
        if not code or key in hopeless or (code in _GONE and _is_farewell(command)):
            continue
        text = f"{verb.value} {key_text(key)}: {explain(code)}"
        if code in _TRANSIENT:
            momentary = momentary or text
        elif verb in _OF_SERVERS:
            hopeless.add(key)
            if code == errno.ENOENT:
                lacking.add(command.server.scheduler)
            elif code == errno.EEXIST:
                taken.append(key)
            elif code in _GONE:
                edited = edited or text
            else:
                culprits[key] = text
        elif code in (*_GONE, errno.EEXIST):
            edited = edited or text
        elif code == errno.EINVAL:  # its address is no host's, as this machine's routes have it
            assert command.destination is not None
            endpoints.append((key, command.destination, explain(code)))
        else:
            culprits[key] = text
    return Judgement(
        lacking=frozenset(lacking),
        taken=tuple(taken),
        edited=edited,
        culprits=tuple(culprits.items()),
        endpoints=tuple(endpoints),
        momentary=momentary,
    )


def undoing(commands: Sequence[Command], codes: Sequence[int], servers: Collection[ServerKey]) -> list[Command]:
    """Return what takes back all that a run did to virtual servers which it should have made and were there."""
    return [
        Command(Verb.DELETE_DESTINATION, command.server, command.destination)
        for command, code in zip(commands, codes, strict=True)
        if not code and command.verb is Verb.ADD_DESTINATION and command.server.key in servers
    ]


def key_text(key: ServerKey) -> str:
    """Write a virtual server's key as `ipvsadm` does, with words for its options."""
    if key.protocol is None:
        return f"fwmark {key.mark:#x} {key.family.label}"
    return f"{key.protocol.lower()} {host_port(key.address, key.port)}"


def _is_farewell(command: Command) -> bool:
    """Return whether a command only makes something leave: all the better if it is gone."""
    if command.verb in _OF_DELETION:
        return True
    return (
        command.verb is Verb.SET_DESTINATION and command.destination is not None and not command.destination.weight
    )
