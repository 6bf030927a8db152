"""One at a time: who programs a node, or traces on it, holds a name in its network namespace. Blocking.

An abstract AF_UNIX name belongs to the network namespace, as everything does that we program: another node of a
lab is another namespace, a container on the host's network is the same one. It is gone with its process, however
that ends, so nothing stale is ever in the way; and the kernel tells whose it is (SO_PEERCRED, unix(7)).

Any process may take a name. One that is not root's could program nothing, so it is told of and passed over, and so
is one that never answers: else an ordinary user could keep a node from being served.
"""

import contextlib
import errno
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

from kubeproxy.kernel.exec import KernelError
from kubeproxy.model.objects import Record

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 1.0
_MOST_ANSWER = 100
_PATIENCE_SECONDS, _PAUSE_SECONDS = 5.0, 0.01
"""Between its bind and its listen, and while it ends, a holder cannot be asked: milliseconds."""
_CREDENTIALS = struct.Struct("3i")


class Task(Record, frozen=True):
    """What only one process of a network namespace may do at a time."""

    name: str
    """Without the zero byte that makes it abstract."""
    busy: str
    """What the holder does, and what to do about it."""


PROGRAMMING = Task(
    "kubeproxy-agent", "programs this node, and two would undo each other's work: end it first, then try again"
)
TRACING = Task("kubeproxy-trace", "is tracing a packet on this node: try again in a moment")


class Taken(KernelError):
    """Somebody else is at it; the text says who, and what to do."""


class Holder(Record, frozen=True):
    """Who has a name."""

    role: str
    """As it calls itself; empty when it does not answer."""
    process: int
    """0 when it is outside of our PID namespace."""
    user: int

    def __str__(self) -> str:
        """Name it for a message."""
        where = f"process {self.process}" if self.process else "a process out of sight, in another container"
        return f"{self.role} ({where})" if self.role else where


@contextlib.contextmanager
def alone(task: Task, role: str) -> Iterator[None]:
    """Do ``task`` and keep others from it meanwhile; ``role`` is what they are told. Raises Taken, OSError."""
    listener = _claim(task)
    if listener is None:
        yield
        return
    with listener:
        answering = threading.Thread(target=_answer, args=(listener, role), name=task.name, daemon=True)
        answering.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            answering.join()


def _claim(task: Task) -> socket.socket | None:
    """Take the name; None when a holder that can do nothing keeps it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"\0{task.name}")
            listener.listen()
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return listener
        holder = _ask(task)
        if holder or time.monotonic() > deadline:
            break
        time.sleep(_PAUSE_SECONDS)
    if holder and holder.user in (0, os.geteuid()):
        raise Taken(f"{holder} {task.busy}")
    log.warning(
        "the name @%s, by which a second agent is known, is held by %s, who has no right to it; nothing keeps a "
        "second one from this node until that process ends",
        task.name,
        f"{holder} of user {holder.user}" if holder else "a process that does not answer",
    )
    return None


def _ask(task: Task) -> Holder | None:
    """Return who has the name, None when nobody answers to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_ANSWER_SECONDS)
        try:
            asking.connect(f"\0{task.name}")
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return None
        process, user, _ = _CREDENTIALS.unpack(credentials)
        role = b""
        with contextlib.suppress(OSError):  # a holder that is stopped says nothing; the kernel knows it yet
            role = asking.recv(_MOST_ANSWER)
    return Holder(role.decode(errors="replace"), process, user)


def _answer(listener: socket.socket, role: str) -> None:
    """Tell who we are to everybody who asks, until the socket is shut down."""
    with contextlib.suppress(OSError):
        while True:
            asking, _ = listener.accept()
            with asking, contextlib.suppress(OSError):
                asking.settimeout(_ANSWER_SECONDS)
                asking.send(role.encode())
