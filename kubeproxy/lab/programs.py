"""The command lines of a lab's programs, machine by machine: what a cluster's administrator would write. Pure."""

import sys
from collections.abc import Sequence

from kubeproxy.lab import identities, layout
from kubeproxy.lab.processes import Spec
from kubeproxy.store.etcd_access import EtcdAccess


def overlay_config(overlay: str) -> str:
    """Return flannel's net-conf.json for the pod network."""
    return f'{{"Network": "{layout.POD_NETWORK}", "Backend": {{"Type": "{overlay}"}}}}'


def _python(*argv: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *argv)


def apiserver(listen_fd: int) -> Spec:
    """Return the API server with the store, on the control machine and on the host's socket ``listen_fd``."""
    argv = _python(
        "kubeproxy",
        "apiserver",
        f"--store=sqlite:{layout.INSIDE}/store.db",
        f"--bind-address={layout.CONTROL}",
        f"--port={layout.API_PORT}",
        f"--cert-dir={layout.INSIDE / layout.PKI}",
        f"--advertise-address={layout.CONTROL}",
        f"--listen-fd={listen_fd}",
        f"--listen-client-urls={layout.STORE_URL}",
        f"--client-users-file={layout.store_users()}",
        f"--service-cluster-ip-range={layout.SERVICE_NETWORK}",
    )
    return Spec(name="apiserver", machine="control", argv=argv, sockets=(listen_fd,))


def controllers() -> Spec:
    """Return the Deployment, ReplicaSet and scheduler loops, on the control machine."""
    argv = _python("kubeproxy.lab.controllers", f"--kubeconfig={layout.kubeconfig(identities.CONTROLLERS)}")
    return Spec(name="controllers", machine="control", argv=argv)


def flanneld(node: str, access: EtcdAccess) -> Spec:
    """Return a node's overlay daemon; ``access`` is how it comes to the store."""
    argv = _python(
        "flannel",
        f"-etcd-endpoints={layout.STORE_URL}",
        f"-etcd-prefix={identities.OVERLAY_KEYS}",
        f"-etcd-cafile={access.cafile}",
        f"-etcd-username={access.username}",
        "-iface=eth0",
        f"-subnet-file={layout.node_directory(node)}/subnet.env",
        "-ip-masq",
        "-healthz-port=0",
    )
    password = {"FLANNELD_ETCD_PASSWORD": access.password}  # a command line is everybody's to read
    return Spec(name=f"flanneld-{node}", machine=node, argv=argv, environment=password)


def proxy(node: str, mode: str) -> Spec:
    """Return a node's service proxy."""
    argv = _python(
        "kubeproxy",
        f"--mode={mode}",
        f"--kubeconfig={layout.kubeconfig(identities.PROXY)}",
        f"--hostname-override={node}",
        f"--cluster-cidr={layout.POD_NETWORK}",
    )
    return Spec(name=f"kubeproxy-{node}", machine=node, argv=argv)


def kubelet(node: str) -> Spec:
    """Return a node's kubelet."""
    argv = _python(
        "kubeproxy.lab.kubelet",
        f"--node={node}",
        f"--kubeconfig={layout.kubeconfig(node)}",
        f"--subnet-file={layout.node_directory(node)}/subnet.env",
        f"--state-dir={layout.kubelet_directory(node)}",
        f"--node-ip={layout.node_address(node)}",
        f"--cluster-dns={layout.DNS_ADDRESS}",
        f"--cluster-domain={layout.DOMAIN}",
        f"--resolv-conf={layout.node_directory(node)}/resolv.conf",
    )
    return Spec(name=f"kubelet-{node}", machine=node, argv=argv)


def of_nodes(nodes: Sequence[str], mode: str, access: EtcdAccess) -> tuple[Spec, ...]:
    """Return every program of every node, overlay first: pods need its lease."""
    specs = [flanneld(node, access) for node in nodes]
    for node in nodes:
        specs += [proxy(node, mode), kubelet(node)]
    return tuple(specs)
