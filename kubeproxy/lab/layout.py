"""Where things are in a lab: paths inside its mount namespace, addresses on its physical network.

Inside, /run is a tmpfs of the lab's own (so `/run/netns` and `/run/xtables.lock` are its own too), and the
lab's directory on the host appears at /run/lab. Pure: no file is touched here.

    /run/netns/NAME                        network namespaces of nodes, control and outside (iproute2's place)
    /run/lab/pki/, credentials/            the lab's CA, and a kubeconfig for each program (identities.py)
    /run/lab/lab.json, kubeconfig, store.db, logs/PROGRAM.log, status.json
    /run/lab/nodes/NODE/subnet.env         flannel's lease of the node
    /run/lab/nodes/NODE/resolv.conf, hosts what commands on the node see in /etc
    /run/lab/nodes/NODE/kubelet/           --state-dir of the node's kubelet
    .../kubelet/pods/NAMESPACE_NAME/pid    a process of the pod (its number inside the lab, or inside the node's
                                           machine): `lab exec pod/NAME` enters that process's mount, network and
                                           UTS namespaces
    /run/lab/machines/NODE/console.log,    where nodes are virtual machines: what the kernel of one says, and the
                           exec.sock       socket by which commands are run in it

A virtual machine has its own /run, but /run/lab is shared with it: every path of a node's is the same there.
"""

from pathlib import Path

INSIDE = Path("/run/lab")
NETNS = Path("/run/netns")

NO_VM, UML = "none", "uml"
VMS = (NO_VM, UML)
"""What a lab's nodes can be: network namespaces, or User-Mode Linux machines."""

MACHINE_MIB = 384
"""Memory of a node that is a virtual machine: its programs take some 130, a resolver 40, another pod 10.

One that is short of memory crawls for minutes before its kernel ends anything.
"""

LAN_PREFIX = "192.168.56"
GATEWAY = f"{LAN_PREFIX}.1"
CONTROL = f"{LAN_PREFIX}.10"
OUTSIDE = f"{LAN_PREFIX}.200"
MAX_NODES = 100
"""Node addresses run from .11; far more than a machine carries, well below OUTSIDE."""

API_PORT = 8001
STORE_PORT = 2379
API_URL = f"https://{CONTROL}:{API_PORT}"
STORE_URL = f"https://{CONTROL}:{STORE_PORT}"

PKI = "pki"
CREDENTIALS = "credentials"
"""Directories below the lab's own."""

POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/12"
DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"


def node_names(count: int) -> tuple[str, ...]:
    """Return the names of a lab's nodes: node1, node2, ..."""
    return tuple(f"node{number}" for number in range(1, count + 1))


def node_address(name: str) -> str:
    """Return a node's address on the physical network."""
    return f"{LAN_PREFIX}.{10 + int(name.removeprefix('node'))}"


def machine_address(name: str) -> str:
    """Return the address of a machine of the lab: a node, control or outside."""
    return {"control": CONTROL, "outside": OUTSIDE}.get(name) or node_address(name)


def netns_path(machine: str) -> Path:
    """Return the file that stands for a machine's network namespace."""
    return NETNS / machine


def admin_kubeconfig(root: Path = INSIDE) -> Path:
    """Return the administrator's kubeconfig for use inside; ``root`` is as in `node_directory`."""
    return root / "kubeconfig.inside"


def kubeconfig(holder: str, root: Path = INSIDE) -> Path:
    """Return the kubeconfig of a node's agent or of a program."""
    return root / CREDENTIALS / f"{holder}.kubeconfig"


def store_users(root: Path = INSIDE) -> Path:
    """Return the API server's --client-users-file."""
    return root / CREDENTIALS / "store-users.csv"


def overlay_password(root: Path = INSIDE) -> Path:
    """Return the file with the overlay's password at the store."""
    return root / CREDENTIALS / "flannel.password"


def node_directory(node: str, root: Path = INSIDE) -> Path:
    """Return what a node keeps; ``root`` is the lab's directory, as seen from where the caller is."""
    return root / "nodes" / node


def console_directory(node: str, root: Path = INSIDE) -> Path:
    """Return where a node that is a virtual machine has its console's log and its socket for commands."""
    return root / "machines" / node


def kubelet_directory(node: str, root: Path = INSIDE) -> Path:
    """Return the kubelet's --state-dir on a node."""
    return node_directory(node, root) / "kubelet"


def pod_directory(node: str, namespace: str, name: str, root: Path = INSIDE) -> Path:
    """Return what the kubelet keeps of one pod; a namespace holds no underscore, so the name is unambiguous."""
    return kubelet_directory(node, root) / "pods" / f"{namespace}_{name}"
