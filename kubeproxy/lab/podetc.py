"""A pod's hostname, /etc/hosts and /etc/resolv.conf, as the kubelet makes them of its spec. Pure.

What a pod's author wrote reaches these files only where it is an address, a domain name or a resolver's option.
"""

import re

from kubeproxy.lab.podspec import DnsConfig, LabPod
from kubeproxy.model.addresses import canonical_ip

MAX_HOSTNAME = 63

_SEARCH = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?", re.ASCII)
_OPTION = re.compile(r"[A-Za-z0-9_:-]{1,63}", re.ASCII)


def is_cluster_dns(pod: LabPod) -> bool:
    """Say whether the pod asks the cluster's resolver; a pod in the node's network does so only on demand."""
    policy = pod.spec.dns_policy
    return policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.host_network)


def resolv_conf(pod: LabPod, cluster_dns: str, domain: str, node_text: str) -> str:
    """Return the pod's /etc/resolv.conf for its dnsPolicy and dnsConfig; ``node_text`` is the node's own."""
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    if is_cluster_dns(pod):
        servers = [cluster_dns]
        searches = [f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain]
        options = {"ndots": "5"}
    elif pod.spec.dns_policy != "None":
        servers, searches, options = _parse_resolv_conf(node_text)
    config = pod.spec.dns_config or DnsConfig()
    servers += [ip for text in config.nameservers or () if (ip := canonical_ip(text)) is not None]
    searches += [text for text in config.searches or () if _SEARCH.fullmatch(text)]
    for option in config.options or ():
        if _OPTION.fullmatch(option.name) and _OPTION.fullmatch(option.value or "0"):
            options[option.name] = option.value or ""
    lines = [f"nameserver {server}" for server in dict.fromkeys(servers)]
    if searches:
        lines.append("search " + " ".join(dict.fromkeys(searches)))
    if options:
        lines.append("options " + " ".join(f"{k}:{v}" if v else k for k, v in options.items()))
    return "\n".join(lines) + "\n"


def _parse_resolv_conf(text: str) -> tuple[list[str], list[str], dict[str, str]]:
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    for line in text.splitlines():
        match line.split():
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search", *names]:
                searches = names
            case ["options", *words]:
                options.update((name, value) for name, _, value in (word.partition(":") for word in words))
    return servers, searches, options


def pod_hostname(pod: LabPod, node: str) -> str:
    """Return what `hostname` prints in the pod."""
    if pod.spec.host_network:
        return node
    return (pod.spec.hostname or pod.metadata.name)[:MAX_HOSTNAME].rstrip("-.")


def hosts_file(pod: LabPod, address: str, node: str, domain: str) -> str:
    """Return the pod's /etc/hosts, as the kubelet writes it."""
    hostname = pod_hostname(pod, node)
    names = [hostname]
    if pod.spec.subdomain and not pod.spec.host_network:
        names.insert(0, f"{hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{domain}")
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        f"{address}\t" + "\t".join(names),
    ]
    for alias in pod.spec.host_aliases or ():
        ip = canonical_ip(alias.ip)
        known = [name for name in alias.hostnames or () if _SEARCH.fullmatch(name)]
        if ip is not None and known:
            lines.append(f"{ip}\t" + "\t".join(known))
    return "\n".join(lines) + "\n"
