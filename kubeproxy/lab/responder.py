"""What a pod runs when its spec gives no command: a server that says who answered whom.

    python -I -S kubeproxy/lab/responder.py --pod NAME --node NODE --port 80/TCP --port 53/UDP [--ready-file F]

Every HTTP path answers 200 with the lines ``pod:``, ``node:``, ``client:``, ``port:`` and ``path:``; a datagram is
answered with the same text. With no port it only waits, as a pause container does.

A lab runs one of these per container, so it is one thread over one selector and imports nothing but a few
modules of the standard library (about 9 MB resident): it is started as a file, without the package around it.

Graceful end. On SIGTERM it goes on serving, new connections too, for DRAIN_SECONDS: the proxies of all nodes need
that long at worst to take the pod out of their rules, and a request that was balanced here in that time must be
answered. While it drains each answer says ``Connection: close``; an idle keep-alive connection is kept to the end
of the drain, because closing it at once could cross a request on its way. Then it ends.
"""

import argparse
import resource
import selectors
import signal
import socket
import sys
import time

DRAIN_SECONDS = 2.0
MAX_HEAD = 65536
"""Bytes a request's head may have; more is answered with 431."""
MAX_CONNECTIONS = 4096
SPARE_DESCRIPTORS = 64
"""What is left for everything but connections: with none, a client that waits would keep the loop busy."""
BACKLOG = 1024
IP_PKTINFO = 8
"""Linux' number; the `socket` module of Python 3.11 does not name it."""


class Identity:
    """Who answers."""

    def __init__(self, pod: str, node: str) -> None:
        self.pod = pod
        self.node = node

    def text(self, client: tuple[str, int], port: int, path: str = "") -> bytes:
        """Return the lines of an answer."""
        host = client[0].removeprefix("::ffff:")
        shown = f"[{host}]" if ":" in host else host
        lines = [f"pod: {self.pod}", f"node: {self.node}", f"client: {shown}:{client[1]}", f"port: {port}"]
        if path:
            lines.append(f"path: {path}")
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def answer(status: str, body: bytes, *, close: bool, head_only: bool = False) -> bytes:
    """Return an HTTP/1.1 response."""
    head = (
        f"HTTP/1.1 {status}\r\nServer: kubeproxy-lab\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else body)


class Request:
    """The head of a request, as far as an answer needs it. Raises ValueError for what is no HTTP/1.x."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, version = first.split(" ")
        if version not in ("HTTP/1.0", "HTTP/1.1") or not self.path.isprintable():
            raise ValueError(first)
        fields = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(line)
            fields[name.strip().lower()] = value.strip()
        connection = fields.get("connection", "").lower()
        chunked = "transfer-encoding" in fields
        # A chunked body is not read: the answer closes the connection instead.
        self.close = chunked or connection == "close" or (version == "HTTP/1.0" and connection != "keep-alive")
        self.continues = fields.get("expect", "").lower() == "100-continue"
        length = fields.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ValueError(f"content-length: {length}")
        self.body_length = 0 if chunked else int(length)


class Connection:
    """One HTTP connection: bytes in, bytes out, no socket. ``finished``: close when all is sent."""

    def __init__(self, identity: Identity, client: tuple[str, int], port: int) -> None:
        self._identity = identity
        self._client = client
        self._port = port
        self._inbox = bytearray()
        self._skip = 0
        self.outbox = bytearray()
        self.finished = False

    def receive(self, data: bytes, *, draining: bool) -> None:
        """Take bytes of the client and append the answers to ``outbox``."""
        self._inbox += data
        while not self.finished:
            if self._skip:
                skipped = min(self._skip, len(self._inbox))
                del self._inbox[:skipped]
                self._skip -= skipped
                if self._skip:
                    return
            end = self._inbox.find(b"\r\n\r\n")
            if end < 0:
                if len(self._inbox) > MAX_HEAD:
                    self._refuse("431 Request Header Fields Too Large")
                return
            head = bytes(self._inbox[:end])
            del self._inbox[: end + 4]
            self._serve(head, draining)

    def _serve(self, head: bytes, draining: bool) -> None:
        try:
            request = Request(head)
        except ValueError:
            self._refuse("400 Bad Request")
            return
        if request.continues:
            self.outbox += b"HTTP/1.1 100 Continue\r\n\r\n"
        self._skip = request.body_length
        self.finished = draining or request.close
        body = self._identity.text(self._client, self._port, request.path)
        self.outbox += answer("200 OK", body, close=self.finished, head_only=request.method == "HEAD")

    def _refuse(self, status: str) -> None:
        self.outbox += answer(status, f"{status}\n".encode(), close=True)
        self.finished = True


class Server:
    """All sockets of one pod on one selector."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._selector = selectors.DefaultSelector()
        self._connections: dict[socket.socket, Connection] = {}
        self._most = connections_allowed()
        self._ends = 0.0
        """When the drain is over (monotonic); 0 while nobody has asked for an end."""

    def listen(self, port: int, protocol: str) -> None:
        """Open a port on every address of the pod, both families where the kernel has both."""
        opened = 0
        for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            try:
                self._open(family, wildcard, port, protocol)
                opened += 1
            except OSError as error:
                if family is socket.AF_INET:
                    raise OSError(error.errno, f"port {port}/{protocol}: {error.strerror}") from None
        assert opened

    def _open(self, family: socket.AddressFamily, wildcard: str, port: int, protocol: str) -> None:
        tcp = protocol == "TCP"
        sock = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        try:
            if family is socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if tcp:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            elif family is socket.AF_INET:
                # The answer must leave from the address that was asked, of which a node has several.
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setblocking(False)
            sock.bind((wildcard, port))
            if tcp:
                sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        self._selector.register(sock, selectors.EVENT_READ, self._accept if tcp else self._datagram)

    def end_after_drain(self, *_: object) -> None:
        """Begin the drain; a second signal does not prolong it."""
        self._ends = self._ends or time.monotonic() + DRAIN_SECONDS

    def run(self, waker: socket.socket) -> None:
        """Serve until the drain is over; ``waker`` becomes readable when a signal has come."""
        self._selector.register(waker, selectors.EVENT_READ, lambda sock: sock.recv(64))
        while not self._ends or time.monotonic() < self._ends:
            timeout = self._ends - time.monotonic() if self._ends else None
            for key, _ in self._selector.select(timeout):
                key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, client = listener.accept()
        except OSError:
            return  # The client went away again, or descriptors are short: the next event tries anew.
        if len(self._connections) >= self._most:
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[sock] = Connection(self._identity, client[:2], listener.getsockname()[1])
        self._selector.register(sock, selectors.EVENT_READ, self._serve)

    def _serve(self, sock: socket.socket) -> None:
        connection = self._connections[sock]
        try:
            if not connection.outbox:
                data = sock.recv(65536)
                if not data:
                    self._close(sock)
                    return
                connection.receive(data, draining=bool(self._ends))
            if connection.outbox:
                del connection.outbox[: sock.send(connection.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._close(sock)
            return
        if connection.finished and not connection.outbox:
            self._close(sock)
            return
        wanted = selectors.EVENT_WRITE if connection.outbox else selectors.EVENT_READ
        self._selector.modify(sock, wanted, self._serve)

    def _close(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._connections[sock]
        sock.close()

    def _datagram(self, sock: socket.socket) -> None:
        try:
            _, ancillary, _, client = sock.recvmsg(65536, 256)
            body = self._identity.text(client[:2], sock.getsockname()[1])
            sock.sendmsg([body], [_reply_from(*each) for each in ancillary], 0, client)
        except OSError:
            pass  # A client that is gone or unreachable gets no answer, as UDP has it.


def connections_allowed() -> int:
    """Raise this process's limit of descriptors as far as need be, and return how many connections it carries."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft - SPARE_DESCRIPTORS)


def _reply_from(level: int, kind: int, data: bytes) -> tuple[int, int, bytes]:
    """Turn "arrived at" into "leave from": in_pktinfo has index, local address, destination."""
    if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
        return level, kind, b"\0\0\0\0" + data[8:12] + b"\0\0\0\0"
    return level, kind, data[:16] + b"\0\0\0\0"


def _port(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in ("TCP", "UDP"):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 80/TCP")
    return int(number), protocol


def main(argv: list[str]) -> int:
    """Listen, say so, serve."""
    parser = argparse.ArgumentParser(prog="responder", allow_abbrev=False)
    parser.add_argument("--pod", required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--port", action="append", default=[], type=_port)
    parser.add_argument("--ready-file", default="", help="made when all ports are open")
    given = parser.parse_args(argv)
    server = Server(Identity(given.pod, given.node))
    waker, alarm = socket.socketpair()
    alarm.setblocking(False)
    signal.set_wakeup_fd(alarm.fileno())
    signal.signal(signal.SIGTERM, server.end_after_drain)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for port, protocol in dict.fromkeys(given.port):
            server.listen(port, protocol)
    except OSError as error:
        print(f"responder: {error.strerror}", file=sys.stderr)
        return 1
    if given.ready_file:
        with open(given.ready_file, "w", encoding="ascii"):  # noqa: PTH123 (pathlib would cost 1 MB a pod)
            pass
    server.run(waker)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
