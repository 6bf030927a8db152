"""flanneld's flags as a table, read in the syntax of Go's flag package: one dash or two, ``-name=value``.

argparse cannot: it takes ``-iface`` for ``-i face``. Every flag is also read from the environment
(FLANNELD_ETCD_PREFIX for etcd-prefix); the command line wins. Flags that flanneld has and this does not have
yet are known and refused by name, so that nobody believes that they are in force.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec


class Kind(Enum):
    """How a flag's text becomes a value."""

    TEXT = "string"
    NUMBER = "int"
    BOOLEAN = ""
    LIST = "value"


class Flag(msgspec.Struct, frozen=True):
    """One flag; ``help`` is flanneld's own."""

    name: str
    kind: Kind
    default: Any
    help: str


class FlagError(Exception):
    """A command line that cannot be used."""


class HelpWanted(Exception):
    """-h or -help was given."""


FLAGS = (
    Flag(
        "etcd-endpoints",
        Kind.TEXT,
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "a comma-delimited list of etcd endpoints",
    ),
    Flag("etcd-prefix", Kind.TEXT, "/coreos.com/network", "etcd prefix"),
    Flag("iface", Kind.LIST, (), "interface to use (IP or name) for inter-host communication; may be repeated"),
    Flag("iface-regex", Kind.LIST, (), "regex expression to match the first interface to use; may be repeated"),
    Flag("iface-can-reach", Kind.TEXT, "", "detect interface to use by what reaches the given IP"),
    Flag("subnet-file", Kind.TEXT, "/run/flannel/subnet.env", "filename where env variables will be written to"),
    Flag("public-ip", Kind.TEXT, "", "IP accessible by other nodes for inter-host communication"),
    Flag("subnet-lease-renew-margin", Kind.NUMBER, 60, "subnet lease renewal margin, in minutes, from 1 to 1439"),
    Flag(
        "ip-masq", Kind.BOOLEAN, False, "setup IP masquerade rule for traffic destined outside of overlay network"
    ),
    Flag(
        "ip-masq-fully-random-disable",
        Kind.BOOLEAN,
        False,
        "setup IP masquerade rules without fully-random port mapping",
    ),
    Flag("iptables-resync", Kind.NUMBER, 5, "resync period for iptables rules, in seconds"),
    Flag("iptables-forward-rules", Kind.BOOLEAN, True, "add default accept rules to FORWARD chain in iptables"),
    Flag("healthz-ip", Kind.TEXT, "0.0.0.0", "the IP address for healthz server to listen"),
    Flag("healthz-port", Kind.NUMBER, 0, "the port for healthz server to listen (0 to disable)"),
    Flag("version", Kind.BOOLEAN, False, "print version and exit"),
    Flag("v", Kind.NUMBER, 0, "number for the log level verbosity"),
)

NOT_BUILT = frozenset(
    {
        "etcd-keyfile",
        "etcd-certfile",
        "etcd-cafile",
        "etcd-username",
        "etcd-password",
        "public-ipv6",
        "kube-subnet-mgr",
        "kube-api-url",
        "kube-annotation-prefix",
        "kubeconfig-file",
        "ip-blackhole-route",
        "net-config-path",
        "set-node-network-unavailable",
        "vmodule",
        "log_backtrace_at",
    }
)

_BY_NAME = {flag.name: flag for flag in FLAGS}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def parse_flags(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return every flag's value by name. Raises `FlagError` or `HelpWanted`."""
    values = {flag.name: flag.default for flag in FLAGS}
    for flag in FLAGS:
        text = environment.get(_variable(flag.name))
        if text is not None and flag.name != "version":
            values[flag.name] = _value(flag, text, ())
    for name in NOT_BUILT:
        if environment.get(_variable(name)):
            raise FlagError(f"{_variable(name)} is set, and the flag -{name} is not built yet")
    given: set[str] = set()
    rest = list(arguments)
    while rest:
        name, text = _split(rest.pop(0), rest)
        flag = _BY_NAME[name]
        earlier = values[name] if name in given else ()
        values[name] = _value(flag, text, earlier)
        given.add(name)
    return values


def _variable(name: str) -> str:
    return "FLANNELD_" + name.replace("-", "_").upper()


def _split(argument: str, rest: list[str]) -> tuple[str, str]:
    """Return a flag's name and text, taking the text from ``rest`` where Go would."""
    bare = argument.removeprefix("-").removeprefix("-")
    if not argument.startswith("-") or not bare:
        raise FlagError(f"unexpected argument {argument!r}")
    name, equals, text = bare.partition("=")
    if name in ("h", "help"):
        raise HelpWanted
    if name in NOT_BUILT:
        raise FlagError(f"flag -{name} is not built yet")
    if name not in _BY_NAME:
        raise FlagError(f"flag provided but not defined: -{name}")
    if equals:
        return name, text
    if _BY_NAME[name].kind is Kind.BOOLEAN:
        return name, "true"
    if not rest:
        raise FlagError(f"flag needs an argument: -{name}")
    return name, rest.pop(0)


def _value(flag: Flag, text: str, earlier: tuple[str, ...]) -> Any:
    match flag.kind:
        case Kind.TEXT:
            return text
        case Kind.LIST:
            return (*earlier, text)
        case Kind.BOOLEAN:
            if text not in _TRUE | _FALSE:
                raise FlagError(f"invalid boolean value {text[:64]!r} for -{flag.name}: use true or false")
            return text in _TRUE
        case Kind.NUMBER:
            try:
                return int(text, 0)
            except ValueError:
                raise FlagError(f"invalid value {text[:64]!r} for flag -{flag.name}: use a whole number") from None


def usage() -> str:
    """Return the text that explains the flags."""
    lines = ["Usage: flanneld [OPTION]..."]
    for flag in sorted(FLAGS, key=lambda flag: flag.name):
        default = "" if flag.default in ("", (), False, 0) else f" (default {flag.default})"
        lines += [f"  -{flag.name} {flag.kind.value}".rstrip(), f"    \t{flag.help}{default}"]
    return "\n".join(lines)
