"""The options of the kubernetes plugin: one small reader each, in one table.

Options of CoreDNS that are not built yet are refused by name; an option that would change answers must never be
taken and not obeyed.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from dns.corefile import Directive, zone_names
from dns.names import is_reverse
from dns.records import Options
from dns.zone import DEFAULT_TTL, Settings
from kubeproxy.access import find_access
from kubeproxy.clock import Clock
from kubeproxy.model.names import is_label
from kubeproxy.store.credentials import Access
from kubeproxy.store.kubeconfig import KubeconfigError, is_server_url

MAX_TTL = 3600
DEFAULT_ENDPOINT = "http://127.0.0.1:8001"
"""Where `kubeproxy` serves the API on a machine that has nothing else."""


class KubernetesOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the block says."""

    settings: Settings
    access: Access
    """How to reach the API server."""
    fallthrough: tuple[str, ...] = ()
    """Zones in which a name that we do not know is the next plugin's."""


Values = dict[str, Any]


def read_options(directive: Directive, block_zones: tuple[str, ...], clock: Clock) -> KubernetesOptions:
    """Read a kubernetes line, and the files that it names. Raises CorefileError."""
    words = [zone for arg in directive.args for zone in zone_names(arg, directive.word)]
    zones = tuple(dict.fromkeys(words or block_zones))
    forward = tuple(zone for zone in zones if not is_reverse(zone))
    if not forward:
        raise directive.wrong("non-reverse zone name must be used")
    values: Values = {"zones": zones}
    for option in directive.block:
        if option.name in _LATER:
            raise option.wrong(f"option '{option.name}' of kubernetes is not built yet")
        if option.name not in _READERS:
            raise option.wrong(f"unknown property '{option.name}'")
        _READERS[option.name](option, values)
    settings = Settings(
        zones=forward,
        reverse_zones=tuple(zone for zone in zones if is_reverse(zone)),
        ttl=values.get("ttl", DEFAULT_TTL),
        pods_insecure=values.get("pods") == "insecure",
        namespaces=frozenset(values.get("namespaces", ())),
        options=Options(
            endpoint_pod_names="endpoint_pod_names" in values,
            noendpoints="noendpoints" in values,
            ignore_empty_service="ignore" in values,
        ),
    )
    return KubernetesOptions(
        settings=settings, access=_access(directive, values, clock), fallthrough=values.get("fallthrough", ())
    )


def _endpoint(option: Directive, values: Values) -> None:
    """As in CoreDNS, which still reads several URLs and uses the first."""
    if not option.args:
        raise option.wrong(f"wrong argument count or unexpected line ending after '{option.name}'")
    if not is_server_url(option.args[0]):
        raise option.wrong(f"'{option.args[0][:80]}' is no URL of an API server (https://ADDRESS:PORT)")
    values["endpoint"] = option.args[0]


def _tls(option: Directive, values: Values) -> None:
    if len(option.args) != 3:
        raise option.wrong(f"wrong argument count or unexpected line ending after '{option.name}'")
    values["tls"] = option.args


def _kubeconfig(option: Directive, values: Values) -> None:
    if not 1 <= len(option.args) <= 2:
        raise option.wrong(f"wrong argument count or unexpected line ending after '{option.name}'")
    values["kubeconfig"] = option.args


def _access(directive: Directive, values: Values, clock: Clock) -> Access:
    """Find the API server: a kubeconfig, an endpoint with `tls` or without, or the cluster that we run in."""
    try:
        if "kubeconfig" in values:
            path, context = (*values["kubeconfig"], "")[:2]
            found = find_access(clock, kubeconfig=path, context=context)
        elif "tls" in values:
            found = find_access(clock, master=values.get("endpoint", ""), certificates=values["tls"])
        else:
            found = find_access(clock, master=values.get("endpoint", ""))
    except KubeconfigError as error:
        raise directive.wrong(str(error)) from None
    return found or Access(server=DEFAULT_ENDPOINT)


def _namespaces(option: Directive, values: Values) -> None:
    if not option.args:
        raise option.wrong(f"wrong argument count or unexpected line ending after '{option.name}'")
    for name in option.args:
        if not is_label(name):
            raise option.wrong(f"'{name[:80]}' is no namespace")
    values["namespaces"] = (*values.get("namespaces", ()), *option.args)


def _pods(option: Directive, values: Values) -> None:
    mode = option.one_arg()
    if mode == "verified":
        raise option.wrong("pods verified is not built yet (disabled and insecure are)")
    if mode not in ("disabled", "insecure"):
        raise option.wrong(f"wrong value for pods: {mode[:40]}, must be one of: disabled, verified, insecure")
    values["pods"] = mode


def _ttl(option: Directive, values: Values) -> None:
    text = option.one_arg()
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_TTL):
        raise option.wrong(f"ttl must be in range [0, {MAX_TTL}]: {text[:40]}")
    values["ttl"] = int(text)


def _fallthrough(option: Directive, values: Values) -> None:
    named = tuple(zone for arg in option.args for zone in zone_names(arg, option.word))
    values["fallthrough"] = named or values["zones"]


def _flag(option: Directive, values: Values) -> None:
    if option.args:
        raise option.wrong(f"wrong argument count or unexpected line ending after '{option.args[0]}'")
    values[option.name] = True


def _ignore(option: Directive, values: Values) -> None:
    if option.one_arg() != "empty_service":
        raise option.wrong(f"unable to parse ignore value: '{option.args[0][:40]}'")
    values["ignore"] = True


_READERS: dict[str, Callable[[Directive, Values], None]] = {
    "endpoint": _endpoint,
    "tls": _tls,
    "kubeconfig": _kubeconfig,
    "namespaces": _namespaces,
    "pods": _pods,
    "ttl": _ttl,
    "fallthrough": _fallthrough,
    "noendpoints": _flag,
    "endpoint_pod_names": _flag,
    "ignore": _ignore,
}
_LATER = frozenset(
    {"labels", "namespace_labels", "multicluster", "zonal", "startup_timeout", "apiserver_qps"}
    | {"apiserver_burst", "apiserver_max_inflight"}
)
