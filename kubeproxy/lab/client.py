"""A client that asks a web server again and again and counts honestly; `lab demo` runs it inside namespaces.

    python -I -S kubeproxy/lab/client.py HOST PORT [--requests N | --until-eof] [--rate R] [--timeout S]

One new connection per request, one try each: a refused, reset, cut or late one is a failure. What the kernel
retries below (a lost SYN is sent again after a second) shows in ``slowest``. Prints one JSON object at the end.
Standard library only: it is started as a file, in pods, without the package around it.
"""

import argparse
import json
import select
import socket
import sys
import time


def ask(host: str, port: int, timeout: float) -> str:
    """Make one request and return the pod that answered. Raises OSError or ValueError."""
    with socket.create_connection((host, port), timeout) as connection:
        request = f"GET /index.html HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank or head.split(b" ")[1:2] != [b"200"]:
        raise ValueError(f"bad answer: {answer[:40]!r}")
    lines = dict(line.split(": ", 1) for line in body.decode().splitlines() if ": " in line)
    return lines.get("pod", "?")


class Tally:
    """What became of the requests."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.slowest = 0.0
        self.pods: dict[str, int] = {}
        self.errors: dict[str, int] = {}

    def request(self, host: str, port: int, timeout: float) -> None:
        """Make a request and count it."""
        began = time.monotonic()
        try:
            pod = ask(host, port, timeout)
        except (OSError, ValueError) as error:
            self.failed += 1
            self.errors[str(error)] = self.errors.get(str(error), 0) + 1
        else:
            self.answered += 1
            self.pods[pod] = self.pods.get(pod, 0) + 1
        self.slowest = max(self.slowest, time.monotonic() - began)


def main(argv: list[str]) -> int:
    """Ask as often as told; the status is 0 when every request was answered."""
    parser = argparse.ArgumentParser(prog="client", allow_abbrev=False)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--until-eof", action="store_true", help="go on until standard input is closed")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second (default: as fast as they go)")
    parser.add_argument("--timeout", type=float, default=5.0)
    given = parser.parse_args(argv)
    tally = Tally()
    due = time.monotonic()
    made = 0
    while given.until_eof or made < given.requests:
        tally.request(given.host, given.port, given.timeout)
        made += 1
        due += 1.0 / given.rate if given.rate else 0.0
        pause = max(0.0, due - time.monotonic())
        if not given.until_eof:
            time.sleep(pause)
        elif select.select([sys.stdin], [], [], pause)[0]:
            break
    print(json.dumps(vars(tally)))
    return 0 if tally.answered and not tally.failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
