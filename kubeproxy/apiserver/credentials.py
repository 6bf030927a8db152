"""Credentials for people and programs: client certificates of the server's own CA, as kubeconfig files.

    kubeproxy apiserver kubeconfig --server https://10.0.0.1:6443 --user system:node:node1 --group system:nodes

reads the CA below --cert-dir, so it runs on the server's machine, and writes to standard output.
"""

import logging
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from kubeproxy.apiserver.pki import Pki, write_private
from kubeproxy.apiserver.protection import DEFAULT_CERT_DIR
from kubeproxy.apiserver.users import MASTERS
from kubeproxy.flags import CommandLine, Flag, FlagError

log = logging.getLogger(__name__)

ADMIN = "kubernetes-admin"
"""kubeadm's name of the first administrator."""

FLAGS = [
    Flag("server", str, "", "URL of the API server, as the holder of the credentials reaches it"),
    Flag("user", str, "", "User name, for example system:node:node1"),
    Flag("group", str, (), "Group of the user, for example system:nodes; may be given several times", "", True),
    Flag("cert-dir", str, DEFAULT_CERT_DIR, "Where the server keeps its CA"),
    Flag("cluster-name", str, "kubernetes", "Name of the cluster in the file"),
]


def kubeconfig(
    pki: Pki, server: str, user: str, groups: Sequence[str], now: float, *, cluster: str, context: str = ""
) -> bytes:
    """Return a kubeconfig with a new client certificate in it. Raises ValueError."""
    ca, pair = pki.ca(now), pki.client(user, groups, now)
    context = context or f"{user}@{cluster}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": _data(ca.certificate)}}
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": _data(pair.certificate), "client-key-data": _data(pair.key)},
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
    }
    return yaml.safe_dump(config, sort_keys=False).encode()


def write_admin(pki: Pki, path: Path, server: str, now: float, cluster: str = "kubernetes") -> None:
    """Write an administrator's kubeconfig, for its owner's eyes only. Raises ValueError."""
    text = kubeconfig(pki, server, ADMIN, [MASTERS], now, cluster=cluster)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, text)
    except OSError as error:
        raise ValueError(f"write-kubeconfig {path}: {error.strerror}") from None
    log.info("an administrator's kubeconfig was written to %s", path)


def _data(pem: bytes) -> str:
    return b64encode(pem).decode()


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if not values["user"]:
        raise FlagError("--user is required")
    parts = urlsplit(values["server"])
    if not values["server"]:
        raise FlagError("--server is required: https://HOST:PORT")
    if parts.scheme != "https" or not parts.hostname:
        raise FlagError(f"--server {values['server']!r} is no URL such as https://HOST:PORT")
    return values


def main(argv: Sequence[str]) -> int:
    """Print a kubeconfig; return the exit status."""
    command = CommandLine("kubeproxy apiserver kubeconfig", "Issue credentials for a user or a program.", FLAGS)
    values = command.parse_or_exit(argv, _checked)
    pki = Pki(Path(values["cert-dir"]))
    try:
        if not pki.ca_file.exists():
            raise FileNotFoundError(f"no CA in {values['cert-dir']}: it is made when the server first starts")
        text = kubeconfig(
            pki, values["server"], values["user"], values["group"], time.time(), cluster=values["cluster-name"]
        )
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(text)
    return 0
