"""The virtual servers, addresses and set entries that kube-proxy 1.36 has in ipvs mode for one Service.

Beside what `upstream_ipvs.install_ipvs` makes, the same for every Service; by ipvsadm, ipset and ip, with
nothing of ours. As reference/kube-proxy.md §2 describes it.
"""

from collections.abc import Sequence
from pathlib import Path

from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.iptables import Iptables
from kubeproxy.model.addresses import Family
from tests.netns.upstream_ipvs import install_ipvs

SYSCTLS = {"conntrack": "1", "expire_nodest_conn": "1", "expire_quiescent_template": "1"}


def install_virtual_servers(
    tables: Iptables,
    *,
    cluster_ip: str,
    external_ip: str,
    node_addresses: Sequence[str],
    node_port: int,
    endpoints: Sequence[tuple[str, int]],
) -> None:
    """Make everything of one family, or what is missing of it, as a kube-proxy does that starts."""
    v4 = tables.family is Family.V4
    run = SystemExec().run
    run(["modprobe", "-a", "ip_vs", "ip_vs_rr", "dummy"], check=False)
    for name, value in SYSCTLS.items():
        Path("/proc/sys/net/ipv4/vs", name).write_text(value)
    install_ipvs(tables)
    prefix = "KUBE-" if v4 else "KUBE-6-"
    entries = [
        f"add {prefix}{name} {address},tcp:80"
        for name, address in (("CLUSTER-IP", cluster_ip), ("EXTERNAL-IP", external_ip))
    ]
    entries += [f"add {prefix}IPVS-IPS {address}" for address in (cluster_ip, external_ip)]
    entries += [f"add {prefix}NODE-PORT-TCP {node_port}"]
    entries += [f"add {prefix}LOOP-BACK {address},tcp:{port},{address}" for address, port in endpoints]
    run(["ipset", "restore", "-exist"], stdin="\n".join(entries) + "\n")
    run(["ip", "link", "add", "kube-ipvs0", "type", "dummy"], check=False)
    for address in (cluster_ip, external_ip):
        nodad = [] if v4 else ["nodad"]
        run(["ip", "addr", "replace", f"{address}/{32 if v4 else 128}", "dev", "kube-ipvs0", *nodad])
    places = [(cluster_ip, 80), (external_ip, 80), *((address, node_port) for address in node_addresses)]
    for address, port in places:
        place = f"{address}:{port}" if v4 else f"[{address}]:{port}"
        run(["ipvsadm", "-A", "-t", place, "-s", "rr"], check=False)
        for endpoint, endpoint_port in endpoints:
            there = f"{endpoint}:{endpoint_port}" if v4 else f"[{endpoint}]:{endpoint_port}"
            destination = ["-t", place, "-r", there, "-m", "-w", "1"]
            if run(["ipvsadm", "-a", *destination], check=False).status:
                run(["ipvsadm", "-e", *destination])
