"""KubeProxyConfiguration as YAML or JSON → Configuration, as strictly as upstream and then as leniently.

A field that nobody knows, or that stands twice, makes upstream decode once more without minding, and log it: so
yesterday's file starts today's proxy. Everything else that is wrong with a file is fatal.
"""

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import yaml

from kubeproxy.config.types import (
    API_VERSION,
    HEALTHZ_PORT,
    KIND,
    METRICS_PORT,
    Configuration,
    Duration,
    FlushFrequency,
)
from kubeproxy.flags import duration
from kubeproxy.model.addresses import canonical_ip, host_port
from kubeproxy.model.objects import Record
from kubeproxy.model.settings import PRIMARY, LocalMode

DEEPEST = 32
"""How deep a file may nest; fields go 5 deep."""


class DecodeError(ValueError):
    """A file that is no KubeProxyConfiguration; the text names the field."""


class Decoded(Record, frozen=True, kw_only=True):
    """What a file says, defaults included, and what a strict reader would have minded ("" when nothing)."""

    configuration: Configuration
    strict_error: str = ""


def decode(content: bytes) -> Decoded:
    """Read a file's content. Raises DecodeError."""
    complaints: list[str] = []
    try:
        tree = _parse(content, complaints)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DecodeError(f"failed to decode: {' '.join(str(error).split())}") from None
    _check_kind(tree)
    pruned = _prune(
        {k: v for k, v in tree.items() if k not in ("apiVersion", "kind")}, Configuration, "", complaints
    )
    try:
        configuration = msgspec.convert(pruned, Configuration, dec_hook=_hook)
    except msgspec.ValidationError as error:
        what, _, where = str(error).rpartition(" - at `$.")
        field = f"{KIND}.{where.rstrip('`')}: " if what else f"{KIND}: "
        raise DecodeError(f"failed to decode: {field}{what or where}") from None
    strict = f"strict decoding error: {', '.join(complaints)}" if complaints else ""
    return Decoded(configuration=defaulted(configuration), strict_error=strict)


def defaulted(configuration: Configuration) -> Configuration:
    """Return it with upstream's defaults in the fields that were left out, or are zero where zero means that."""
    default = Configuration()
    v6 = ":" in (canonical_ip(configuration.bind_address or default.bind_address) or "")
    healthz, metrics = ("[::]", "[::1]") if v6 else ("0.0.0.0", "127.0.0.1")
    filled = _fill(
        configuration,
        default,
        "bind_address",
        "config_sync_period",
        iptables=("sync_period",),
        ipvs=("sync_period",),
        nftables=("sync_period",),
        client_connection=("content_type", "qps", "burst"),
        logging=("format", "flush_frequency"),
    )
    return msgspec.structs.replace(
        filled,
        healthz_bind_address=with_port(configuration.healthz_bind_address or healthz, HEALTHZ_PORT),
        metrics_bind_address=with_port(configuration.metrics_bind_address or metrics, METRICS_PORT),
    )


def resolved(configuration: Configuration) -> Configuration:
    """Return it with the choices made that the platform makes: the mode, and what hangs on it."""
    mode = configuration.mode or "iptables"
    addresses = configuration.node_port_addresses
    if mode == "nftables" and not addresses:
        addresses = (PRIMARY,)
    return msgspec.structs.replace(
        configuration,
        mode=mode,
        node_port_addresses=addresses,
        detect_local_mode=configuration.detect_local_mode or LocalMode.CLUSTER_CIDR.value,
    )


def with_port(address: str, port: int) -> str:
    """Return an address with a port: its own, or the given one when it is a bare IP (in brackets or not)."""
    bare = address.removeprefix("[").removesuffix("]")
    if canonical_ip(bare) is None:
        return address
    return host_port(bare, port)


def _fill(
    configuration: Configuration, default: Configuration, *names: str, **blocks: tuple[str, ...]
) -> Configuration:
    changes: dict[str, Any] = {n: getattr(configuration, n) or getattr(default, n) for n in names}
    for block, fields in blocks.items():
        own, model = getattr(configuration, block), getattr(default, block)
        changes[block] = msgspec.structs.replace(own, **{n: getattr(own, n) or getattr(model, n) for n in fields})
    return msgspec.structs.replace(configuration, **changes)


def _parse(content: bytes, complaints: list[str]) -> dict[Any, Any]:
    _check_depth(content)
    loader = yaml.CSafeLoader(content)
    try:
        # The first document counts, as with upstream's reader.
        node = loader.get_node() if loader.check_node() else None
        if node is None:
            return {}
        complaints.extend(_duplicates(node))
        tree = loader.construct_document(node)
        if loader.check_node():
            complaints.append("only the first of several documents counts")
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise ValueError(f"a mapping is needed, not a {type(tree).__name__}")
    return tree


def _check_depth(content: bytes) -> None:
    """Refuse what nests deeper than a configuration can: the loader recurses on the machine's own stack."""
    depth = 0
    for event in yaml.parse(content, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise ValueError(f"line {line}: nested more than {DEEPEST} deep")
        if isinstance(event, yaml.DocumentEndEvent):
            return


def _duplicates(root: yaml.Node) -> Iterator[str]:
    """Find keys that stand twice in one mapping. An alias leads to a node seen before, which is not read again."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                waiting.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        yield f'line {key.start_mark.line + 1}: key "{key.value}" already set in map'
                    keys.add(key.value)


def _check_kind(tree: dict[Any, Any]) -> None:
    kind, version = tree.get("kind"), tree.get("apiVersion")
    for name, value in (("Kind", kind), ("apiVersion", version)):
        if not value:
            raise DecodeError(f"failed to decode: Object '{name}' is missing in the configuration file")
    if (kind, version) != (KIND, API_VERSION):
        hint = ""
        if kind == "ConfigMap":
            hint = "; the file is to be what a kubeadm cluster's ConfigMap has under data, config.conf"
        raise DecodeError(
            f'failed to decode: no kind "{kind}" is registered for version "{version}"; '
            f'needed: kind "{KIND}", version "{API_VERSION}"{hint}'
        )


def _prune(value: Any, kind: Any, path: str, complaints: list[str]) -> Any:
    """Take out nulls, which say "not set" in every field, and the fields that a struct does not have."""
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        complaints.extend(f'unknown field "{path}{name}"' for name in value if name not in known)
        return {
            name: _prune(each, known[name], f"{path}{name}.", complaints)
            for name, each in value.items()
            if each is not None and name in known
        }
    if isinstance(value, list) and get_args(kind):
        inner = get_args(kind)[0]
        return [_prune(each, inner, f"{path[:-1]}[{i}].", complaints) for i, each in enumerate(value)]
    return value


def _hook(kind: type, value: Any) -> Any:
    if kind is FlushFrequency and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 2**63:
            raise TypeError("Expected nanoseconds in 64 bits")
        return FlushFrequency(value / 1e9)
    if issubclass(kind, Duration):
        if not isinstance(value, str):
            raise TypeError(f"Expected a duration such as `30s`, got `{type(value).__name__}`")
        return kind(duration(value))
    raise NotImplementedError(kind)
