"""Record what ipvsadm says to the kernel and hears of it, as tests/captures/ipvsadm.json.

Run inside a machine that has IPVS and nlmon, as root: `python3 capture_ipvsadm.py FILE`. ipvsadm is not ours, so
what it sends is what our encoder is held against.
"""

import json
import shlex
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS = """
ipvsadm -A -t 10.96.0.1:80 -s rr
ipvsadm -A -u 10.96.0.1:53 -s lc
ipvsadm -A --sctp-service 10.96.0.1:3868 -s wrr
ipvsadm -A -t [fd00:10::1]:80 -s rr
ipvsadm -A -u [fd00:10::1]:53 -s sh -b sh-port
ipvsadm -A -t 10.96.0.2:443 -s rr -p 10800
ipvsadm -A -t [fd00:10::2]:443 -s rr -p 10800
ipvsadm -A -f 4097 -s mh -b mh-port
ipvsadm -A -f 4098 -6 -s mh -b mh-port,mh-fallback
ipvsadm -A -u 10.96.0.3:514 -s rr -o
ipvsadm -A -t 10.96.0.1:80 -s rr
ipvsadm -A -t 10.96.0.4:80 -s nosuch
ipvsadm -E -t 10.96.0.2:443 -s wlc -p 60
ipvsadm -E -t 10.96.0.2:443 -s wlc
ipvsadm -E -t 10.96.0.2:443 -s rr -p 300
ipvsadm -E -t 10.96.0.9:443 -s rr
ipvsadm -a -t 10.96.0.1:80 -r 10.244.1.2:8080 -m -w 1
ipvsadm -a -t 10.96.0.1:80 -r 10.244.1.3:8080 -m -w 1
ipvsadm -a -t 10.96.0.1:80 -r 10.244.1.3:8080 -m -w 1
ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.3:8080 -m -w 0
ipvsadm -e -t 10.96.0.1:80 -r 10.244.1.9:8080 -m -w 0
ipvsadm -a -u 10.96.0.1:53 -r 10.244.1.2:53 -m -w 1
ipvsadm -a --sctp-service 10.96.0.1:3868 -r 10.244.1.2:3868 -m -w 65535
ipvsadm -a -t [fd00:10::1]:80 -r [fd00:244::2]:8080 -m -w 1
ipvsadm -e -t [fd00:10::1]:80 -r [fd00:244::2]:8080 -m -w 7
ipvsadm -a -f 4097 -r 10.244.1.2:8080 -m -w 1
ipvsadm -a -f 4098 -6 -r [fd00:244::2]:8080 -m -w 1
ipvsadm -a -t 10.96.0.9:80 -r 10.244.1.2:8080 -m -w 1
ipvsadm --set 900 120 300
ipvsadm --set 0 60 0
ipvsadm -L --timeout
ipvsadm -A -t 10.96.0.5:80 -s rr -p 60 -M 255.255.255.0
ipvsadm -a -t 10.96.0.5:80 -r 10.244.1.2:80 -g -w 1
ipvsadm -a -t 10.96.0.5:80 -r 10.244.1.3:80 -m -w 1 -x 100 -y 50
ipvsadm -L -n
ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.3:8080
ipvsadm -d -t 10.96.0.1:80 -r 10.244.1.3:8080
ipvsadm -d -t [fd00:10::1]:80 -r [fd00:244::2]:8080
ipvsadm -D -t 10.96.0.1:80
ipvsadm -D -t 10.96.0.1:80
ipvsadm -D -f 4098 -6
ipvsadm -C
ipvsadm -A -t 127.0.0.9:80 -s rr -p 60
ipvsadm -a -t 127.0.0.9:80 -r 127.0.0.1:8080 -m -w 1
"""
LIVE = "ipvsadm -L -n"
"""Once more, with three connections open and one closed."""

GENERIC, REQUEST, ERROR, SO_RCVBUFFORCE = 16, 1, 2, 33
INFO = (14, 15)
"""IPVS_CMD_SET_INFO and GET_INFO, which ipvsadm begins with."""


def record(command: str, tap: socket.socket) -> dict[str, Any]:
    run = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    row: dict[str, Any] = {
        "command": command,
        "text": run.stdout or run.stderr,
        "error": 0,
        "sent": [],
        "answers": [],
    }
    for data in frames(tap):
        kind, flags = struct.unpack_from("=HH", data, 4)
        if kind == ERROR:
            row["error"] = row["error"] or -struct.unpack_from("=i", data, 16)[0]
        elif kind > GENERIC and data[16] not in INFO:
            row["sent" if flags & REQUEST else "answers"].append(data[16:].hex())
    return row


def frames(tap: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            data, address = tap.recvfrom(1 << 20)
        except BlockingIOError:
            return found
        if address[1] == GENERIC:
            found += split(data)


def split(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= 20:
        length = struct.unpack_from("=I", data)[0]
        found.append(data[:length])
        data = data[length + -length % 4 :]
    return found


def live(tap: socket.socket) -> dict[str, Any]:
    listener = socket.create_server(("127.0.0.1", 8080))
    clients = [socket.create_connection(("127.0.0.9", 80), 5) for _ in range(4)]
    clients[0].sendall(b"x" * 1000)
    clients.pop().close()
    listener.accept()[0].recv(1000)
    time.sleep(2.5)  # the kernel adds its counters up every 2 s
    return record(LIVE, tap)


def main() -> None:
    subprocess.run(["ipvsadm", "-C"], check=True)
    subprocess.run(["ip", "link", "add", "nlmon0", "up", "type", "nlmon"], check=True)
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    tap.bind(("nlmon0", 0))
    tap.setblocking(False)
    rows = [record(line, tap) for line in COMMANDS.strip().splitlines()]
    rows.append(live(tap))
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
