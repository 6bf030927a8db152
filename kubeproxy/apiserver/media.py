"""Media types: what the client accepts, and how bodies are read (JSON, YAML, a little protobuf)."""

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml

from kubeproxy.apiserver import status
from kubeproxy.apiserver.protobuf import PROTOBUF, decode_protobuf
from kubeproxy.apiserver.table import TableForm

JSON = "application/json"
YAML = "application/yaml"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_ACCEPTED = f"{JSON}, {YAML}"
MAX_BODY = 3 * 1024 * 1024
MAX_YAML = 1024 * 1024
"""Making and parsing YAML cost a hundred times what JSON costs, and hold up every other request."""
MAX_YAML_EVENTS = 50_000
"""Scalars, and begins and ends of lists and mappings, in a body: half a second."""
MAX_YAML_DEPTH = 100
"""The C loader recurses on the machine's stack: a body of nothing but "- - - -" would end the process."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an Accept header."""

    type: str
    parameters: dict[str, str]


def parse_accept(header: str) -> list[Accepted]:
    """Split an Accept header, best first."""
    found: list[tuple[float, Accepted]] = []
    for entry in header.split(","):
        kind, *rest = [part.strip() for part in entry.split(";")]
        pairs = [part.partition("=") for part in rest]
        parameters = {key.strip(): value.strip() for key, _, value in pairs}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        found.append((-quality, Accepted(type=kind or "*/*", parameters=parameters)))
    return [accepted for _, accepted in sorted(found, key=lambda pair: pair[0])]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The representation chosen for an answer."""

    yaml: bool = False
    table: bool = False
    metadata_only: bool = False

    def table_form(self, include: str) -> TableForm | None:
        """Return how Tables are to be made, or None when objects are wanted."""
        return TableForm(include=include or "Metadata") if self.table else None


def choose(header: str) -> Form:
    """Choose the first representation that we make. Raises 406."""
    for accepted in parse_accept(header or "*/*"):
        if accepted.type in (JSON, "*/*", "application/*"):
            what = accepted.parameters.get("as")
            if what is None:
                return Form()
            known = accepted.parameters.get("g") == "meta.k8s.io" and accepted.parameters.get("v") == "v1"
            if known and what == "Table":
                return Form(table=True)
            if known and what in ("PartialObjectMetadata", "PartialObjectMetadataList"):
                return Form(metadata_only=True)
        elif accepted.type in (YAML, "application/x-yaml", "text/yaml") and not accepted.parameters:
            return Form(yaml=True)
    raise status.not_acceptable(_ACCEPTED)


def wants_aggregated(header: str) -> bool:
    """The client prefers the aggregated discovery documents."""
    for accepted in parse_accept(header):
        parameters = accepted.parameters
        if accepted.type == JSON and parameters.get("g") == "apidiscovery.k8s.io":
            if parameters.get("v") == "v2" and parameters.get("as") == "APIGroupDiscoveryList":
                return True
        elif accepted.type == JSON and not parameters:
            return False
    return False


def media_type(content_type: str) -> str:
    """Return a Content-Type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def decode_body(body: bytes, content_type: str) -> Any:
    """Decode a JSON, YAML or protobuf body. Raises 400 for one that is malformed, 415 for another format."""
    kind = media_type(content_type)
    if kind in (JSON, "", "application/octet-stream", "application/x-www-form-urlencoded"):
        return _decode_json(body)
    if kind in (YAML, "application/x-yaml", "text/yaml", "application/apply-patch+yaml"):
        return _decode_yaml(body)
    if kind == PROTOBUF:
        return decode_protobuf(body)
    raise status.unsupported_media_type(_ACCEPTED)


def _decode_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unrecognized(f"couldn't parse as JSON: {error}") from None


def _decode_yaml(body: bytes) -> Any:
    if len(body) > MAX_YAML:
        raise status.too_large(MAX_YAML)
    try:
        _check_yaml(yaml.parse(body, Loader=_Loader))
        loaded = yaml.load(body, Loader=_Loader)  # noqa: S506 - a safe loader that leaves times alone
        # JSON and back: YAML's own values have no place in an object.
        return msgspec.json.decode(msgspec.json.encode(loaded))
    except (yaml.YAMLError, RecursionError, TypeError, ValueError, ArithmeticError) as error:
        raise _unrecognized(f"couldn't parse as YAML: {' '.join(str(error).split())}") from None


def _check_yaml(events: Iterable[yaml.Event]) -> None:
    """Refuse what is cheap to send and dear to load, before anything is loaded. Raises 400."""
    depth = 0
    for number, event in enumerate(events):
        # Aliases let a page of text unfold to gigabytes; kubectl resolves them before it sends anything.
        if isinstance(event, yaml.AliasEvent):
            raise _unrecognized("YAML aliases are not accepted here")
        if (tag := getattr(event, "tag", None)) not in _YAML_TAGS:
            raise _unrecognized(f"the YAML tag {tag:.80} is not accepted here")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH or number >= MAX_YAML_EVENTS:
            raise _unrecognized("its YAML has too many values, or is nested too deeply; send JSON")


def _unrecognized(why: str) -> status.ApiProblem:
    return status.bad_request(f"the object provided is unrecognized: {why}")


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML as Kubernetes reads it: times stay text."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read a whole number that is not too long."""
        number: int = super().construct_yaml_int(_short(node))
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Read a number that is not too long."""
        number: float = super().construct_yaml_float(_short(node))
        return number


def _short(node: yaml.ScalarNode) -> yaml.ScalarNode:
    """Refuse a long number: one of sexagesimal digits (1:1:1...) takes the square of its length."""
    if len(node.value) > _LONGEST_NUMBER:
        raise yaml.constructor.ConstructorError(None, None, "the number is too long", node.start_mark)
    return node


_LONGEST_NUMBER = 100
_YAML_TAGS = (None, "!", "tag:yaml.org,2002:str")
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def encode_yaml(value: bytes) -> bytes:
    """Return JSON as YAML. What is long stays as it is: JSON is YAML too."""
    if len(value) > MAX_YAML:
        return value
    text: str = yaml.dump(
        msgspec.json.decode(value), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=False
    )
    return text.encode()
