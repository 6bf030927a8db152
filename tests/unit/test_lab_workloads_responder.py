"""The responder's HTTP, byte by byte, without a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.lab.responder import Connection, Identity

pytestmark = pytest.mark.unit

GET = b"GET /index.html HTTP/1.1\r\nHost: x\r\n\r\n"


def connection():
    return Connection(Identity("p", "n"), ("10.0.0.1", 4321), 80)


def answers(text):
    """Split what was sent into (status line, connection header, body)."""
    found = []
    while text:
        head, _, rest = text.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        length = int(fields.get("Content-Length", 0))
        found.append((lines[0], fields.get("Connection", ""), rest[:length].decode()))
        text = rest[length:]
    return found


def test_it_says_who_answered_whom():
    link = connection()
    link.receive(GET, draining=False)
    assert answers(bytes(link.outbox)) == [
        (
            "HTTP/1.1 200 OK",
            "keep-alive",
            "pod: p\nnode: n\nclient: 10.0.0.1:4321\nport: 80\npath: /index.html\n",
        )
    ]
    assert not link.finished


@pytest.mark.parametrize(
    ("request_text", "draining", "closes"),
    [
        (GET, False, False),
        (GET, True, True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False, True),
        (b"GET / HTTP/1.0\r\n\r\n", False, True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, False),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", False, True),
    ],
)
def test_who_closes(request_text, draining, closes):
    link = connection()
    link.receive(request_text, draining=draining)
    assert link.finished is closes
    assert answers(bytes(link.outbox))[0][1] == ("close" if closes else "keep-alive")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"HELLO\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/2.0\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (b"x" * 70000, "HTTP/1.1 431 Request Header Fields Too Large"),
    ],
)
def test_what_is_no_request(text, status):
    link = connection()
    link.receive(text, draining=False)
    assert answers(bytes(link.outbox))[0][0] == status
    assert link.finished


def test_bodies_are_read_over_and_requests_may_follow_each_other():
    link = connection()
    link.receive(b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\n\r\n", draining=False)
    assert [body.splitlines()[-1] for _, _, body in answers(bytes(link.outbox))] == ["path: /a", "path: /b"]


@given(st.lists(st.integers(1, 40), max_size=10))
def test_how_the_bytes_arrive_does_not_matter(cuts):
    stream = GET + b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n012345678" + GET
    whole, pieces = connection(), connection()
    whole.receive(stream, draining=False)
    rest = stream
    for cut in cuts:
        pieces.receive(rest[:cut], draining=False)
        rest = rest[cut:]
    pieces.receive(rest, draining=False)
    assert whole.outbox == pieces.outbox


@given(st.binary(max_size=300))
def test_rubbish_never_raises(data):
    connection().receive(data + b"\r\n\r\n", draining=False)
