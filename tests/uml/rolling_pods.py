"""Pods that end as a kubelet has them end: asked first, and gone when their last connection is, or their time."""

import contextlib
import selectors
import socket
import threading
import time
from collections import deque

from kubeproxy.model.addresses import Family
from tests.netns.traffic import ECHO_PORT
from tests.scenarios.addresses import HOSTS
from tests.scenarios.lab import Lab

THINKS_SECONDS = 0.2
"""Before an answer: so connections are always under way, also when their pod is asked to end."""
QUIET_SECONDS = 1.0
GRACE_SECONDS = 20.0


class Pod:
    """A process that echoes at its pod's addresses, on a thread of its own."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.name = name
        host = HOSTS[name]
        self._listeners = []
        for family, inet in ((Family.V4, socket.AF_INET), (Family.V6, socket.AF_INET6)):
            listener = lab.socket(host.namespace, inet, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host.address(family), ECHO_PORT))
            listener.listen(512)
            listener.setblocking(False)
            self._listeners.append(listener)
        self._asked_to_end = threading.Event()
        self.answered = 0
        self.cut_off = 0
        """Connections that were open when its time was over."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def ask_to_end(self) -> None:
        """Say that nobody shall come any more."""
        self._asked_to_end.set()

    def wait(self) -> None:
        """Return when the process has ended."""
        self._thread.join()

    def _serve(self) -> None:
        connections: set[socket.socket] = set()
        answers: deque[tuple[float, socket.socket]] = deque()
        heard, deadline = time.monotonic(), float("inf")
        with selectors.DefaultSelector() as selector:
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(0.02):
                    assert isinstance(key.fileobj, socket.socket)
                    heard = time.monotonic()
                    if key.fileobj in self._listeners:
                        with contextlib.suppress(BlockingIOError):
                            while True:
                                connections.add(each := key.fileobj.accept()[0])
                                selector.register(each, selectors.EVENT_READ)
                        continue
                    with contextlib.suppress(OSError):
                        if key.fileobj.recv(100):
                            answers.append((heard + THINKS_SECONDS, key.fileobj))
                            continue
                    selector.unregister(key.fileobj)
                    connections.discard(key.fileobj)
                    key.fileobj.close()
                now = time.monotonic()
                while answers and answers[0][0] <= now:
                    with contextlib.suppress(OSError):
                        answers.popleft()[1].send(b"?")
                        self.answered += 1
                if self._asked_to_end.is_set():
                    deadline = min(deadline, now + GRACE_SECONDS)
                    if now > deadline or (not connections and now - heard > QUIET_SECONDS):
                        break
        self.cut_off = len(connections)
        for each in (*connections, *self._listeners):
            each.close()
