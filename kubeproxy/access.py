"""How a program of ours reaches its API server: kube-proxy's rules for --kubeconfig and --master.

A kubeconfig, with --master overriding its server; or --master alone, anonymously; or, inside a pod, its
ServiceAccount; or nothing, which leaves the program to its own default.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kubeproxy.clock import Clock
from kubeproxy.kernel.exec import CommandMissing, KernelError
from kubeproxy.kernel.plugin import run_plugin
from kubeproxy.store.credentials import Access
from kubeproxy.store.exec_plugin import PluginError
from kubeproxy.store.kubeconfig import Cluster, Selected, User, checked, load, paths_of
from kubeproxy.store.kubeconfig_credentials import IN_CLUSTER_DIRECTORY, access_of, in_cluster


def find_access(
    clock: Clock,
    *,
    kubeconfig: str = "",
    context: str = "",
    master: str = "",
    certificates: tuple[str, str, str] | None = None,
    environment: Mapping[str, str] = os.environ,
    directory: Path = IN_CLUSTER_DIRECTORY,
) -> Access | None:
    """Return how to reach the API server; None when nothing says so and we are not in a cluster.

    ``kubeconfig`` is a path, or several as KUBECONFIG has them. ``certificates`` are paths of our certificate, its
    key and the authority to trust, for ``master``. Raises `KubeconfigError`; blocks on files.
    """
    if kubeconfig:
        return access_of(load(paths_of(kubeconfig), context=context, server=master), _run, clock)
    if master and certificates:
        certificate, key, authority = certificates
        cluster = Cluster(server=master, certificate_authority=authority)
        user = User(client_certificate=certificate, client_key=key)
        return access_of(checked(Selected(cluster=cluster, user=user)), _run, clock)
    if master:
        return Access(server=master)
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    return access_of(in_cluster(host, port, directory), _run, clock) if host and port else None


async def _run(argv: Sequence[str], variables: Mapping[str, str], seconds: float) -> bytes:
    try:
        return await run_plugin(argv, variables, seconds)
    except KernelError as error:
        raise PluginError(str(error), missing=isinstance(error, CommandMissing)) from None
