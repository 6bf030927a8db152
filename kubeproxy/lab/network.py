"""The lab's physical network: a bridge, and machines (nodes, control, outside) attached to it.

A machine is a namespace with one end of a cable (veth), or has a kernel of its own and a tap on the bridge.

The world ends at the bridge: it is also the nodes' default gateway, which answers everything beyond the lab
with "host unreachable", so that a program which tries to leave fails at once instead of waiting. Commands are
rendered here (pure) and run by `build` in three batches, because every start of `ip` costs.
"""

from collections.abc import Iterable, Sequence

from kubeproxy.kernel.exec import Exec
from kubeproxy.kernel.netns import write_sysctls
from kubeproxy.lab import layout

BRIDGE = "lan0"

GATEWAY_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
}
"""Forwarding is what makes the gateway answer "unreachable" rather than drop; every packet gets an answer."""

NODE_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.rp_filter": "2",
    "net.ipv4.conf.default.rp_filter": "2",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv6.conf.all.forwarding": "1",
}
"""What kubeadm's preflight asks of a node, and what point-to-point pods need (loose reverse path filter)."""


def machines(nodes: Iterable[str]) -> tuple[str, ...]:
    """Return every machine of a lab."""
    return ("control", *nodes, "outside")


def lan_commands(nodes: Sequence[str], vm: str = layout.NO_VM) -> str:
    """Return the `ip -batch` lines for the lab's own namespace: bridge, namespaces, cables, taps."""
    lines = [
        "link set lo up",
        f"link add {BRIDGE} type bridge forward_delay 0",
        f"address add {layout.GATEWAY}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
        "route add unreachable default",
    ]
    for machine in machines(nodes):
        if vm != layout.NO_VM and machine in nodes:
            lines.append(f"tuntap add dev {machine} mode tap")
        else:
            lines.append(f"netns add {machine}")
            lines.append(f"link add {machine} type veth peer name eth0 netns {machine}")
        lines.append(f"link set {machine} master {BRIDGE} up")
    return "\n".join(lines) + "\n"


def machine_commands(machine: str) -> str:
    """Return the `ip -batch` lines for one machine, in its namespace or under its own kernel."""
    lines = [
        "link set lo up",
        f"address add {layout.machine_address(machine)}/24 dev eth0",
        "link set eth0 up",
    ]
    if machine != "outside":
        lines.append(f"route add default via {layout.GATEWAY}")
    return "\n".join(lines) + "\n"


def build(execute: Exec, nodes: Sequence[str], vm: str = layout.NO_VM) -> None:
    """Make the network; to be called once, in a fresh network namespace. Raises KernelError or OSError.

    Nodes with kernels of their own get their taps; the rest is done inside them, once they have booted.
    """
    execute.run(["ip", "-batch", "-"], stdin=lan_commands(nodes, vm))
    write_sysctls("/proc/self/ns/net", GATEWAY_SYSCTLS)
    own_kernel = frozenset(nodes if vm != layout.NO_VM else ())
    for machine in machines(nodes):
        if machine not in own_kernel:
            execute.run(["ip", "-n", machine, "-batch", "-"], stdin=machine_commands(machine))
    for node in nodes:
        if node not in own_kernel:
            write_sysctls(layout.netns_path(node), NODE_SYSCTLS)
