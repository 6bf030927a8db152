"""Steady traffic through the scenarios' lab: connections that are held open, and new ones at a constant rate.

One thread serves all backends (they echo), one is all the clients; a socket made on a namespace's thread stays
in that namespace whoever uses it. A SYN that was dropped shows as a retransmission in the client's namespace
even when the second one got through, so nothing is lost unseen.
"""

import contextlib
import itertools
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.objects import Record
from tests.scenarios.lab import Lab

ECHO_PORT = 9000
LOST_SECONDS = 10.0
MOST_UNDER_WAY = 100
"""New connections at once. With as many unanswered the next one waits: then this machine is slow."""
CLIENT_PORTS = range(20000, 60000)
"""One after the other, so that IPVS mistakes no connection for another one.

Two at a time with the same port, to different addresses of the Service: where these lead to one endpoint, IPVS
takes the answers of one for the other's. One after another, to the same address: when IPVS forgets the first, two
minutes after its end, it has connection tracking forget the second.
"""
BEAT_SECONDS = 0.1
"""Between two words on a connection that is held."""


class Route(Record, frozen=True):
    """From where to which address."""

    source: str
    address: str
    port: int


class Client:
    """One connection on its way."""

    def __init__(self, connection: socket.socket, held: bool) -> None:
        self.connection = connection
        self.held = held
        self.begun = self.asked = time.monotonic()
        self.waits = True


class Traffic:
    """Runs from `__enter__` until `stop`; figures are those since the start."""

    def __init__(self, lab: Lab, backends: Sequence[str], routes: list[Route], rate: int, held: int) -> None:
        self._lab = lab
        self._routes = routes
        self._rate = rate
        self._held = held
        self._listeners = [self._listen(who) for who in backends]
        self._stop = threading.Event()
        self._enough = threading.Event()
        """Open nothing more."""
        self._finished = threading.Event()
        self._ports = itertools.cycle(CLIENT_PORTS)
        self._to_hold = threading.Semaphore(0)
        self._unasked = threading.Event()
        """Nobody asks any more, so nobody need answer."""
        self._threads = [threading.Thread(target=work) for work in (self._serve, self._drive)]
        self._clients: dict[socket.socket, Client] = {}
        self._under_way = 0
        self._selector = selectors.DefaultSelector()
        self.figures: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.slowest = 0.0
        self.began = time.monotonic()
        self._syn_retransmissions = self._retransmissions()
        self._parted: tuple[float, dict[str, float]] = (0.0, {})

    def __enter__(self) -> "Traffic":
        self._open_held()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        server, clients = self._threads
        self._stop.set()
        clients.join()
        self._unasked.set()
        server.join()
        for each in [*self._clients, *self._listeners]:
            each.close()

    def hold_more(self) -> None:
        """Hold as many again."""
        self._to_hold.release()

    def settle(self, seconds: float) -> None:
        """Go on for a while."""
        self._stop.wait(seconds)

    def finish(self) -> None:
        """Open nothing more; return when each connection on its way has been answered, or has not been in time."""
        self._enough.set()
        assert self._finished.wait(2 * LOST_SECONDS), "the thread of the clients has ended"

    @property
    def elapsed(self) -> float:
        """Seconds since the start, as complaints have them."""
        return time.monotonic() - self.began

    def verdict(self) -> dict[str, float]:
        """Return what happened to the connections so far."""
        return {**self._counted(), "slowest": round(self.slowest, 3)}

    def part(self) -> dict[str, float]:
        """Return what happened since the last part, with its seconds and the connections opened in each."""
        seconds, counted = self.elapsed, self._counted()
        since, before = self._parted
        self._parted = seconds, counted
        figures = {key: value - before.get(key, 0.0) for key, value in counted.items()}
        rate = figures["opened"] / (seconds - since)
        return {**figures, "seconds": round(seconds - since, 2), "a second": round(rate, 1)}

    def _counted(self) -> dict[str, float]:
        keys = ("held", "opened", "answered", "refused", "lost", "broken", "misled", "words")
        figures = {key: float(self.figures[key]) for key in keys}
        return {**figures, "resent": self._retransmissions() - self._syn_retransmissions}

    def _listen(self, who: str) -> socket.socket:
        listener = self._lab.socket(who, socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", ECHO_PORT))
        listener.listen(1024)
        listener.setblocking(False)
        return listener

    def _retransmissions(self) -> int:
        return sum(self._lab.run(who, _syn_retransmissions) for who in {each.source for each in self._routes})

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ, True)
            while not self._unasked.is_set():
                for key, _ in selector.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    if key.data:
                        with contextlib.suppress(BlockingIOError):
                            while True:
                                selector.register(key.fileobj.accept()[0], selectors.EVENT_READ, False)
                        continue
                    with contextlib.suppress(OSError):
                        data = key.fileobj.recv(100)
                        if data and key.fileobj.send(data):
                            continue
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()

    def _open_held(self) -> None:
        for route in self._routes:
            for _ in range(self._held):
                self._open(route, held=True)

    def _drive(self) -> None:
        begun, opened = time.monotonic(), 0
        while not self._stop.is_set():
            if self._to_hold.acquire(blocking=False):
                self._open_held()
            now = time.monotonic()
            while opened < (now - begun) * self._rate and not self._enough.is_set():
                if self._under_way >= MOST_UNDER_WAY:
                    begun = now - opened / self._rate
                    break
                self._open(self._routes[opened % len(self._routes)], held=False)
                opened += 1
            for key, _ in self._selector.select(1 / self._rate):
                self._ready(key.data)
            self._look_after(time.monotonic())
            if self._enough.is_set() and not self._under_way:
                self._finished.set()

    def _open(self, route: Route, *, held: bool) -> None:
        inet = socket.AF_INET6 if family_of(route.address) is Family.V6 else socket.AF_INET
        connection = self._lab.socket(route.source, inet, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.bind(("::" if inet == socket.AF_INET6 else "0.0.0.0", next(self._ports)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = self._clients[connection] = Client(connection, held)
        self._under_way += not held
        self.figures["held" if held else "opened"] += 1
        with contextlib.suppress(BlockingIOError):
            connection.connect((route.address, route.port))
        self._selector.register(connection, selectors.EVENT_WRITE, client)

    def _ready(self, client: Client) -> None:
        """Take the next step: connected → ask; answered → done, or (held) wait for the next beat."""
        error = client.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._ended(client, "refused" if not client.held else "broken", f"errno {error}")
            return
        try:
            if self._selector.get_key(client.connection).events & selectors.EVENT_WRITE:
                client.connection.send(b"?")
                self._selector.modify(client.connection, selectors.EVENT_READ, client)
                return
            data = client.connection.recv(10)
        except OSError as refused:
            self._ended(client, "broken", str(refused))
            return
        if not data:
            self._ended(client, "broken", "closed by the other side")
            return
        if data.strip(b"?"):
            self._ended(client, "misled", "somebody else answered")
            return
        self.slowest = max(self.slowest, time.monotonic() - client.asked)
        if client.held:
            client.waits = False
            self.figures["words"] += 1
        else:
            self._ended(client, "answered")

    def _look_after(self, now: float) -> None:
        for client in list(self._clients.values()):
            if client.waits and now - client.asked > LOST_SECONDS:
                self._ended(client, "broken" if client.held else "lost", "no answer")
            elif not client.waits and now - client.asked > BEAT_SECONDS:
                client.waits, client.asked = True, now
                with contextlib.suppress(OSError):  # which the next answer, or its absence, will tell
                    client.connection.send(b"?")

    def _ended(self, client: Client, how: str, why: str = "") -> None:
        self.figures[how] += 1
        self._under_way -= not client.held
        if why:
            begun = client.begun - self.began
            self.complaints.append(f"{how} at {self.elapsed:.2f} s, begun {begun:.2f}: {client.connection} {why}")
        self._selector.unregister(client.connection)
        del self._clients[client.connection]
        client.connection.close()


def lost(figures: dict[str, float]) -> bool:
    """Return whether a connection was lost, refused, broken or held up."""
    return any(figures[key] for key in ("refused", "lost", "broken", "misled", "resent"))


def _syn_retransmissions() -> int:
    lines = [line.split() for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()]
    names, values = next(pair for pair in zip(lines[::2], lines[1::2], strict=True) if pair[0][0] == "TcpExt:")
    return int(values[names.index("TCPSynRetrans")])


@contextlib.contextmanager
def traffic(lab: Lab, backends: Sequence[str], routes: list[Route], rate: int, held: int) -> Iterator[Traffic]:
    """Run traffic; at the end every connection must have been answered, and none broken."""
    with Traffic(lab, backends, routes, rate, held) as running:
        yield running
        running.settle(1.0)
        running.finish()
        found = running.verdict()
        assert not lost(found), (found, running.complaints[:5])
        assert found["answered"] == found["opened"] > 0, found
        assert found["words"] > 0
