"""Media types: what the client accepts, and how bodies are read (JSON, YAML, a little protobuf)."""

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
"""Parsing YAML costs a hundred times what JSON costs, and holds up every other request."""


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
        raise status.bad_request(f"the object provided is unrecognized: couldn't parse as JSON: {error}") from None


def _decode_yaml(body: bytes) -> Any:
    if len(body) > MAX_YAML:
        raise status.too_large(MAX_YAML)
    try:
        # Aliases let a page of text unfold to gigabytes; kubectl resolves them before it sends anything.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(body, Loader=_Loader)):
            raise status.bad_request("the object provided is unrecognized: YAML aliases are not accepted here")
        loaded = yaml.load(body, Loader=_Loader)  # noqa: S506 - a safe loader that leaves times alone
        # JSON and back: YAML's own values (dates, sets) have no place in an object.
        return msgspec.json.decode(msgspec.json.encode(loaded))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError) as error:
        text = " ".join(str(error).split())
        raise status.bad_request(f"the object provided is unrecognized: couldn't parse as YAML: {text}") from None


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML as Kubernetes reads it: times stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def encode_yaml(value: bytes) -> bytes:
    """Return JSON as YAML."""
    text: str = yaml.safe_dump(msgspec.json.decode(value), sort_keys=False, default_flow_style=False)
    return text.encode()
