"""A node that is a virtual machine: what is booted, and what is done inside before its programs start. Pure.

Afterwards it looks to them as a namespace of the lab does: `eth0` is on the lab's LAN, /etc knows the other
machines, /run/lab is the lab's directory.
"""

from pathlib import Path

from kubeproxy.lab import layout, network, processes
from kubeproxy.lab.machine.machine import arguments
from kubeproxy.lab.machine.spec import Nic, Spec

BOOT_SECONDS = 60.0
DEVICE = "vec0"
"""What a machine's first network device is called when it boots."""
MODULES = ("ipv6", "tun")
"""What nothing loads by itself in time: the sysctls of IPv6 are read, and written, before anyone has used it;
/dev/net/tun, for the UDP overlay and `trace --live`, is there only with its module."""


def mac(node: str) -> str:
    """Return the hardware address of a node: locally administered, its last byte the address's."""
    return f"02:6c:61:62:00:{int(layout.node_address(node).rpartition('.')[2]):02x}"


def machine_of(node: str) -> Spec:
    """Return the machine that is a node."""
    return Spec(
        name=node,
        memory=f"{layout.MACHINE_MIB}M",
        nics=(Nic(tap=node, mac=mac(node)),),
        shared=(str(layout.INSIDE),),
        boot_seconds=BOOT_SECONDS,
    )


def program_of(node: str) -> processes.Spec:
    """Return the program that holds a node's machine."""
    argv = (*arguments(machine_of(node), layout.console_directory(node)), "--report")
    return processes.Spec(name=f"machine-{node}", machine=node, argv=argv)


def is_machine(program: processes.Spec) -> bool:
    """Say whether a program is one that holds a machine."""
    return program.name == f"machine-{program.machine}"


def set_up_script(node: str) -> str:
    """Return what a shell inside runs first: cable, modules, sysctls, /etc. Ends at the first line that fails."""
    files = layout.node_directory(node)
    lines = [
        "set -e",
        f"modprobe -a {' '.join(MODULES)}",
        "ip -batch - <<END",
        f"link set {DEVICE} name eth0",
        network.machine_commands(node) + "END",
        *(f"echo {value} > {sysctl_file(name)}" for name, value in network.NODE_SYSCTLS.items()),
        # A host's may be a link to what it has in /run.
        *(f"rm -f /etc/{name} && cat {files / name} > /etc/{name}" for name in ("hosts", "resolv.conf")),
    ]
    return "\n".join(lines) + "\n"


def sysctl_file(name: str) -> Path:
    """Return the file of a sysctl ("net.ipv4.ip_forward")."""
    return Path("/proc/sys", *name.split("."))
