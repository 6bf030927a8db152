"""`kubeproxy apiserver`: parse, serve until SIGTERM, say in one line why not."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from kubeproxy import logs
from kubeproxy.apiserver import credentials
from kubeproxy.apiserver.allocate import parse_ranges
from kubeproxy.apiserver.protection import DEFAULT_CERT_DIR, Protection
from kubeproxy.apiserver.server import Settings, running
from kubeproxy.clock import SystemClock
from kubeproxy.controllers.podcidrs import PodNetwork, pod_network
from kubeproxy.flags import CommandLine, Flag, FlagError, boolean, comma_list, duration, integer
from kubeproxy.model.addresses import canonical_ip
from kubeproxy.store.base import StoreError
from kubeproxy.store.etcd_access import EtcdAccess, read_file

log = logging.getLogger(__name__)

FLAGS = [
    Flag("store", str, "", "Where objects are kept: sqlite:PATH, or the URLs of an etcd cluster"),
    Flag("etcd-servers", comma_list, (), "URLs of an etcd cluster; the same as --store with these"),
    Flag("etcd-cafile", str, "", "CA that signed etcd's certificates"),
    Flag("etcd-certfile", str, "", "Client certificate for etcd"),
    Flag("etcd-keyfile", str, "", "Key of that certificate"),
    Flag("etcd-username", str, "", "User name at etcd"),
    Flag("etcd-password", str, "", "Password at etcd; everybody on the machine can read a command line"),
    Flag("etcd-password-file", str, "", "File with the password at etcd"),
    Flag("etcd-compaction-interval", duration, 300.0, "How often etcd's history is compacted; 0: never"),
    Flag("bind-address", str, "127.0.0.1", "Address that the API answers on"),
    Flag("port", integer, 8001, "Port that the API answers on (0: any free one)"),
    Flag("secure-port", integer, 0, "Port that the API answers on, in TLS on loopback too; 0: --port's"),
    Flag("tls-cert-file", str, "", "Serving certificate, with its chain; without one, one is made in --cert-dir"),
    Flag("tls-private-key-file", str, "", "Key of that certificate"),
    Flag("cert-dir", str, "", f"Where the generated CA and certificate are kept (default {DEFAULT_CERT_DIR})"),
    Flag("client-ca-file", str, "", "CA whose client certificates count, beside the generated one"),
    Flag("token-auth-file", str, "", 'Bearer tokens: token,user,uid,"group1,group2"'),
    Flag("anonymous-auth", boolean, True, "Whether requests without credentials may read /healthz"),
    Flag(
        "insecure-plain-http", boolean, False, "No TLS beyond loopback: something in front of this server does it"
    ),
    Flag("write-kubeconfig", str, "", "Where to write an administrator's kubeconfig at start"),
    Flag("advertise-address", str, "", "Address under which pods find this server, for the kubernetes Service"),
    Flag("listen-fd", comma_list, (), "Inherited listening sockets to answer on too"),
    Flag("listen-client-urls", comma_list, (), "Where etcd's JSON gateway on the same store answers"),
    Flag("client-users-file", str, "", "Users of that gateway: name,password,key prefix; empty prefix: all keys"),
    Flag("service-cluster-ip-range", str, "10.96.0.0/12", "Cluster IPs to hand out; one CIDR per IP family"),
    Flag("allocate-node-cidrs", boolean, False, "Give every Node a podCIDR of the cluster's pod network"),
    Flag("cluster-cidr", str, "", "The cluster's pod network, for --allocate-node-cidrs"),
    Flag("node-cidr-mask-size", integer, 24, "Length of a Node's podCIDR"),
    Flag("service-node-port-range", str, "30000-32767", "Node ports to hand out"),
    Flag("logging-format", str, "text", "text or json"),
    Flag("v", integer, 0, "Log verbosity; 4 and more shows debug lines"),
]

NOT_BUILT = ("etcd-prefix",)


def _settings(values: dict[str, Any]) -> Settings:
    store, etcd = _store(values)
    if canonical_ip(values["bind-address"]) is None:
        raise FlagError(f"bind-address {values['bind-address']!r} is no IP address")
    for name in ("port", "secure-port"):
        if not 0 <= values[name] <= 65535:
            raise FlagError(f"{name} {values[name]} is not within 0-65535")
    if not all(text.isdigit() for text in values["listen-fd"]):
        raise FlagError("listen-fd must be the number of an inherited socket")
    try:
        ranges = parse_ranges(values["service-cluster-ip-range"], values["service-node-port-range"])
    except ValueError as error:
        raise FlagError(str(error)) from None
    return Settings(
        store=store,
        etcd=etcd,
        compaction_seconds=_compaction_seconds(values["etcd-compaction-interval"]),
        protection=_protection(values),
        write_kubeconfig=values["write-kubeconfig"],
        ranges=ranges,
        pod_network=_pod_network(values),
        bind_address=values["bind-address"],
        port=values["secure-port"] or values["port"],
        advertise_address=_advertised(values["advertise-address"], values["bind-address"]),
        listen_fds=tuple(int(text) for text in values["listen-fd"]),
        client_urls=values["listen-client-urls"],
        client_users_file=values["client-users-file"],
    )


def _store(values: dict[str, Any]) -> tuple[str, EtcdAccess]:
    if values["store"] and values["etcd-servers"]:
        raise FlagError("--store and --etcd-servers are two stores for one server")
    if not values["store"] and not values["etcd-servers"]:
        raise FlagError("one of --store and --etcd-servers is required: sqlite:PATH or http://HOST:PORT")
    if values["etcd-password"] and values["etcd-password-file"]:
        raise FlagError("--etcd-password and --etcd-password-file are two passwords for one user")
    store = values["store"] or ",".join(values["etcd-servers"])
    try:
        secret = values["etcd-password-file"]
        password = read_file("etcd-password-file", secret).decode().strip() if secret else values["etcd-password"]
        access = EtcdAccess(
            cafile=values["etcd-cafile"],
            certfile=values["etcd-certfile"],
            keyfile=values["etcd-keyfile"],
            username=values["etcd-username"],
            password=password,
        )
        if not store.startswith("sqlite:"):
            access.check(store.split(","))
        elif access != EtcdAccess():
            raise ValueError(f"flags for etcd are given, and the store is {store}")
    except ValueError as error:
        raise FlagError(f"--{error}" if str(error).startswith("etcd-") else str(error)) from None
    return store, access


def _pod_network(values: dict[str, Any]) -> PodNetwork | None:
    if not values["allocate-node-cidrs"]:
        if values["cluster-cidr"]:
            raise FlagError("--cluster-cidr has no effect without --allocate-node-cidrs")
        return None
    try:
        return pod_network(values["cluster-cidr"], values["node-cidr-mask-size"])
    except ValueError as error:
        raise FlagError(f"--allocate-node-cidrs: {error}") from None


def _compaction_seconds(seconds: float) -> float:
    if seconds < 0:
        raise FlagError("etcd-compaction-interval is negative")
    return seconds


def _protection(values: dict[str, Any]) -> Protection:
    cert_file, key_file, cert_dir = values["tls-cert-file"], values["tls-private-key-file"], values["cert-dir"]
    if bool(cert_file) != bool(key_file):
        raise FlagError("--tls-cert-file and --tls-private-key-file are of use together only")
    tls = bool(values["secure-port"] or cert_file or cert_dir or values["client-ca-file"])
    if tls and values["insecure-plain-http"]:
        raise FlagError("--insecure-plain-http contradicts the flags that ask for TLS")
    if values["write-kubeconfig"] and cert_file:
        raise FlagError("--write-kubeconfig issues credentials of the generated CA, and --tls-cert-file is given")
    return Protection(
        tls=tls or bool(values["write-kubeconfig"]),
        plain=values["insecure-plain-http"],
        cert_file=cert_file,
        key_file=key_file,
        cert_dir=cert_dir,
        client_ca_file=values["client-ca-file"],
        token_file=values["token-auth-file"],
        anonymous=values["anonymous-auth"],
    )


def _advertised(text: str, bind_address: str) -> str:
    """The bind address serves when nothing is said, unless pods cannot reach it."""
    address = ip_address(canonical_ip(text or bind_address) or "0.0.0.0")
    if text and canonical_ip(text) is None:
        raise FlagError(f"advertise-address {text!r} is no IP address")
    unreachable = address.is_unspecified or address.is_loopback
    if text and unreachable:
        raise FlagError(f"advertise-address {text!r} cannot be reached from pods")
    return "" if unreachable else str(address)


async def _serve(settings: Settings) -> None:
    async with running(settings, SystemClock()) as url:
        log.info("API at %s, store %s", url, settings.store)
        await asyncio.Event().wait()


async def _until_signalled(settings: Settings) -> None:
    """Serve; a signal also ends a start that waits for its store."""
    serving = asyncio.create_task(_serve(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        log.info("ended")


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, or issue credentials (`kubeconfig`); return the exit status."""
    if argv and argv[0] == "kubeconfig":
        return credentials.main(argv[1:])
    command = CommandLine(
        "kubeproxy apiserver",
        "Serve the Kubernetes API over a store. Credentials for its users: kubeproxy apiserver kubeconfig.",
        FLAGS,
        not_built=NOT_BUILT,
    )
    values: dict[str, Any] = {}

    def check(parsed: dict[str, Any]) -> Settings:
        values.update(parsed)
        return _settings(parsed)

    settings = command.parse_or_exit(argv, check)
    logs.configure(values["logging-format"], values["v"])
    try:
        asyncio.run(_until_signalled(settings))
    except (OSError, StoreError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0
