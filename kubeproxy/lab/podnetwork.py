"""A pod's cable: a namespace, a veth pair point to point, routes on both ends.

The host end carries the subnet's gateway address as a /32, which many links may do at once (the ptp CNI plugin
does the same): so it answers ARP for the gateway without proxy ARP, and is the source of the node's own packets
to the pod. The node reaches the pod by a /32 route; there is no bridge, and nothing for br_netfilter to do.

Texts are rendered purely and run as `ip -batch`, two starts of `ip` a pod.
"""

import contextlib
import hashlib
import os
import signal
from collections.abc import Container
from ipaddress import IPv4Address

import msgspec

from kubeproxy.kernel.exec import CommandFailed, Exec
from kubeproxy.lab.ipam import Subnet

NETNS_DIRECTORY = "/run/netns"
MAX_READABLE = 180
"""A namespace's name is a file name; what makes it unique is the hash at its end."""


class Cable(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's names of one pod's network."""

    netns: str
    veth: str

    @property
    def path(self) -> str:
        """The file that stands for the namespace."""
        return f"{NETNS_DIRECTORY}/{self.netns}"


def cable_of(namespace: str, name: str, uid: str) -> Cable:
    """Name a pod's network; two pods of one name, one after the other, get two names."""
    digest = hashlib.sha256(uid.encode()).hexdigest()
    readable = f"pod-{namespace}-{name}"[:MAX_READABLE]
    return Cable(netns=f"{readable}-{digest[:8]}", veth=f"veth{digest[:11]}")


def host_commands(cable: Cable, address: IPv4Address, subnet: Subnet) -> str:
    """Return the lines for the node's namespace."""
    return (
        f"netns add {cable.netns}\n"
        f"link add {cable.veth} mtu {subnet.mtu} type veth peer name eth0 mtu {subnet.mtu} netns {cable.netns}\n"
        f"address add {subnet.gateway}/32 dev {cable.veth}\n"
        f"link set {cable.veth} up\n"
        f"route replace {address}/32 dev {cable.veth} src {subnet.gateway}\n"
    )


def pod_commands(address: IPv4Address, subnet: Subnet) -> str:
    """Return the lines for the pod's namespace."""
    return (
        "link set lo up\n"
        f"address add {address}/32 dev eth0\n"
        "link set eth0 up\n"
        f"route add {subnet.gateway} dev eth0 scope link\n"
        f"route add default via {subnet.gateway} dev eth0\n"
    )


def attach(execute: Exec, cable: Cable, address: IPv4Address, subnet: Subnet) -> None:
    """Make the pod's network anew. Blocking; raises KernelError, and leaves no half of it."""
    detach(execute, cable)
    try:
        execute.run(["ip", "-batch", "-"], stdin=host_commands(cable, address, subnet))
        execute.run(["ip", "-n", cable.netns, "-batch", "-"], stdin=pod_commands(address, subnet))
    except CommandFailed:
        detach(execute, cable)
        raise


def detach(execute: Exec, cable: Cable) -> None:
    """Remove the pod's network, and say nothing when there is none. Blocking."""
    execute.run(
        ["ip", "-force", "-batch", "-"], stdin=f"link del {cable.veth}\nnetns del {cable.netns}\n", check=False
    )


def kill_processes_in(execute: Exec, cable: Cable, spare: Container[int] = ()) -> None:
    """Kill whoever lives in the pod's namespace, but for those to ``spare``. Blocking."""
    found = execute.run(["ip", "netns", "pids", cable.netns], check=False)
    for pid in (int(word) for word in found.stdout.split() if word.isdigit()):
        if pid not in spare:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
