"""Hold connections open to a web server and use each once a second until standard input ends; run inside a pod.

    python -I -S held_connections.py HOST PORT COUNT

Prints one JSON object: how many of the connections lived to the end, and how many answers they gave. A
connection that breaks is not opened again. Standard library only: it is started as a file, in pods.
"""

import json
import select
import socket
import sys
import time

REQUEST = b"GET /index.html HTTP/1.1\r\nHost: held\r\n\r\n"


def exchange(connection: socket.socket) -> None:
    """Make one request on an open connection and read its whole answer. Raises OSError or ValueError."""
    connection.sendall(REQUEST)
    answer = b""
    while b"\r\n\r\n" not in answer:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError("closed by the server")
        answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    missing = int(fields[b"content-length"]) - len(body)
    while missing > 0:
        missing -= len(connection.recv(missing))


def main(host: str, port: int, count: int) -> None:
    """Hold ``count`` connections."""
    connections = [socket.create_connection((host, port), 5) for _ in range(count)]
    answers, broken = 0, []
    while not select.select([sys.stdin], [], [], 0)[0]:
        for connection in list(connections):
            try:
                exchange(connection)
                answers += 1
            except (OSError, ValueError) as error:
                broken.append(str(error))
                connections.remove(connection)
        time.sleep(1)
    print(json.dumps({"held": len(connections), "broken": broken, "answers": answers}))


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
