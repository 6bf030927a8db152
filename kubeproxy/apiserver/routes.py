"""From a URL path to what it names: a kind, a namespace, an object, a subresource."""

from collections.abc import Sequence

import msgspec

from kubeproxy.apiserver import status
from kubeproxy.apiserver.kinds import BY_PATH, Kind


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a path names. ``name`` "" is the collection; ``namespace`` "" all namespaces."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


STREAMING = ("log", "exec", "attach", "portforward")


def place(segments: Sequence[str]) -> Place:
    """Resolve the segments of a path below the root. Raises 404 for one that is not served."""
    if len(segments) >= 3 and segments[0] == "api":
        group, version, rest = "", segments[1], segments[2:]
    elif len(segments) >= 4 and segments[0] == "apis":
        group, version, rest = segments[1], segments[2], segments[3:]
    else:
        raise status.path_not_found()
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and (group, version, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    kind = BY_PATH.get((group, version, rest[0]))
    if kind is None or len(rest) > 3 or (namespace and not kind.resource.namespaced) or "" in rest:
        raise status.path_not_found()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if (
        subresource
        and subresource not in kind.subresources
        and (kind.name, subresource) != ("Namespace", "finalize")
    ):
        if kind.name == "Pod" and subresource in STREAMING:
            raise status.streaming_not_served(name, subresource)
        raise status.path_not_found()
    if name and kind.resource.namespaced and not namespace:
        raise status.path_not_found()
    return Place(kind=kind, namespace=namespace, name=name, subresource=subresource)
