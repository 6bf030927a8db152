"""flanneld's command line as a checked value."""

import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from flannel.nodes import AnnotationNames, annotation_names
from flannel.underlay import Wish
from kubeproxy.flags import FlagError
from kubeproxy.store.etcd_access import EtcdAccess
from kubeproxy.store.kubeconfig import is_server_url


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What flanneld was asked to do; the fields are named for their flags."""

    etcd_endpoints: tuple[str, ...]
    etcd_prefix: str
    kube_subnet_mgr: bool
    kube_api_url: str
    kubeconfig_file: str
    annotation_names: AnnotationNames
    net_config_path: Path
    set_node_network_unavailable: bool
    etcd_access: EtcdAccess
    wish: Wish
    subnet_file: Path
    renew_margin_seconds: float
    ip_masq: bool
    masq_random_fully: bool
    iptables_resync: int
    forward_rules: bool
    healthz_ip: str
    healthz_port: int
    verbosity: int
    version: bool


def make_config(flags: Mapping[str, Any]) -> Config:
    """Check what the flags say. Raises `FlagError` with the flag's name."""
    endpoints = _endpoints(flags["etcd-endpoints"])
    return Config(
        etcd_endpoints=endpoints,
        etcd_access=_access(flags, endpoints),
        etcd_prefix=_prefix(flags["etcd-prefix"]),
        kube_subnet_mgr=flags["kube-subnet-mgr"],
        kube_api_url=_api_url(flags["kube-api-url"]),
        kubeconfig_file=flags["kubeconfig-file"],
        annotation_names=_annotation_names(flags["kube-annotation-prefix"]),
        net_config_path=Path(flags["net-config-path"]),
        set_node_network_unavailable=flags["set-node-network-unavailable"],
        wish=Wish(
            names=flags["iface"],
            patterns=_patterns(flags["iface-regex"]),
            can_reach=_address(flags, "iface-can-reach"),
            public_ip=IPv4Address(_address(flags, "public-ip")) if flags["public-ip"] else None,
        ),
        subnet_file=Path(flags["subnet-file"]),
        renew_margin_seconds=60.0 * _within(flags, "subnet-lease-renew-margin", 1, 1439),
        ip_masq=flags["ip-masq"],
        masq_random_fully=not flags["ip-masq-fully-random-disable"],
        iptables_resync=_within(flags, "iptables-resync", 1, 86400),
        forward_rules=flags["iptables-forward-rules"],
        healthz_ip=_address(flags, "healthz-ip"),
        healthz_port=_within(flags, "healthz-port", 0, 65535),
        verbosity=flags["v"],
        version=flags["version"],
    )


def _endpoints(text: str) -> tuple[str, ...]:
    endpoints = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    if not endpoints:
        raise FlagError("-etcd-endpoints: needs at least one URL")
    return endpoints


def _access(flags: Mapping[str, Any], endpoints: tuple[str, ...]) -> EtcdAccess:
    """Upstream speaks TLS when key and certificate are given; here a CA alone, or an https URL, will do too."""
    access = EtcdAccess(
        cafile=flags["etcd-cafile"],
        certfile=flags["etcd-certfile"],
        keyfile=flags["etcd-keyfile"],
        username=flags["etcd-username"],
        password=flags["etcd-password"],
    )
    try:
        access.check(endpoints)
    except ValueError as error:
        raise FlagError(str(error)) from None
    return access


def _prefix(text: str) -> str:
    prefix = "/" + text.strip("/")
    if not prefix.isprintable() or len(prefix) == 1:
        raise FlagError(f"-etcd-prefix: {text[:128]!r} is no key prefix such as /coreos.com/network")
    return prefix


def _api_url(text: str) -> str:
    if text and not is_server_url(text):
        raise FlagError(f"-kube-api-url: {text[:128]!r} is no URL such as https://10.0.0.1:6443")
    return text.rstrip("/")


def _annotation_names(prefix: str) -> AnnotationNames:
    try:
        return annotation_names(prefix)
    except ValueError as error:
        raise FlagError(f"-kube-annotation-prefix: {prefix[:128]!r}: {error}") from None


def _patterns(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        try:
            re.compile(text)
        except re.error as error:
            raise FlagError(f"-iface-regex: {text[:128]!r} is no regular expression: {error}") from None
    return texts


def _address(flags: Mapping[str, Any], name: str) -> str:
    text: str = flags[name]
    try:
        return str(IPv4Address(text)) if text else ""
    except AddressValueError:
        raise FlagError(f"-{name}: {text[:64]!r} is no IPv4 address") from None


def _within(flags: Mapping[str, Any], name: str, lowest: int, highest: int) -> int:
    value: int = flags[name]
    if not lowest <= value <= highest:
        raise FlagError(f"-{name}: {value} is out of the acceptable range {lowest} to {highest}")
    return value
