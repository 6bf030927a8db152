"""Who is who in a lab: its CA, and one kubeconfig for each program and for the person who made the lab.

pki/                         the API server's --cert-dir: its CA and its certificate
kubeconfig                   the person's, by the port on the host
kubeconfig.inside            the same person's, for commands inside
credentials/NAME.kubeconfig  node1, ...; kube-proxy, controllers, coredns
credentials/store-users.csv  who may use the store: flannel, below its keys; flannel.password is his
"""

import secrets
import time
from pathlib import Path

from kubeproxy.apiserver.credentials import ADMIN, kubeconfig
from kubeproxy.apiserver.pki import Pki, write_private
from kubeproxy.apiserver.users import MASTERS, NODE_PREFIX, NODES
from kubeproxy.lab import layout
from kubeproxy.lab.state import Lab
from kubeproxy.store.etcd_access import EtcdAccess

PROXY = "kube-proxy"
CONTROLLERS = "controllers"
COREDNS = "coredns"
OVERLAY = "flannel"
OVERLAY_KEYS = "/coreos.com/network"
"""flannel's keys in the store (its own default)."""

_PROGRAMS = {
    PROXY: "system:kube-proxy",
    CONTROLLERS: "system:kube-controller-manager",
    COREDNS: "system:serviceaccount:kube-system:coredns",
}


def write(lab: Lab) -> None:
    """Make the lab's CA and everybody's credentials. Raises OSError."""
    root, name, now = lab.directory, f"kubeproxy-{lab.record.name}", time.time()
    pki = Pki(root / layout.PKI)
    (root / layout.CREDENTIALS).mkdir(mode=0o700, exist_ok=True)
    admin, inside = (ADMIN, (MASTERS,)), layout.API_URL
    files: dict[Path, tuple[str, str, tuple[str, ...]]] = {
        lab.kubeconfig: (f"https://127.0.0.1:{lab.record.api_port}", *admin),
        layout.admin_kubeconfig(root): (inside, *admin),
    }
    for program, user in _PROGRAMS.items():
        files[layout.kubeconfig(program, root)] = (inside, user, ())
    for node in layout.node_names(lab.record.nodes):
        files[layout.kubeconfig(node, root)] = (inside, f"{NODE_PREFIX}{node}", (NODES,))
    for path, (server, user, groups) in files.items():
        write_private(path, kubeconfig(pki, server, user, groups, now, cluster=name, context=name))
    password = secrets.token_urlsafe(24)
    write_private(layout.overlay_password(root), password.encode())
    write_private(layout.store_users(root), f"{OVERLAY},{password},{OVERLAY_KEYS}\n".encode())


def overlay_access() -> EtcdAccess:
    """Return how flannel comes to the store, from inside. Raises OSError."""
    ca = layout.INSIDE / layout.PKI / "ca.crt"
    return EtcdAccess(cafile=str(ca), username=OVERLAY, password=layout.overlay_password().read_text())
