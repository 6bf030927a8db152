"""How a row of the scenario table is written: objects in few words, probes as lines of text. Plain data.

A row says nothing of addresses or families: `cluster`, `external`, `balancer`, `nodeport` are those of its own
Services, `be1`, `be2` (this node), `be3`, `be4` (another node), `pod`, `outside` and so on are the lab's (see
`addresses.py`). So each row runs in IPv4 and IPv6 and beside all others. A probe's line:

    CLIENT,CLIENT [UDP|SCTP] WHERE,WHERE:PORT -> EXPECTED    [| v4 v6 iptables ipvs nftables]

WHERE is `cluster`, `external`, `balancer`, `nodeport` (with the Service's port), `nodeport@alt` or
`nodeport@localhost`, `health`, a host's name, or an address; `api/cluster` is that of the Service `api`, and
`external2` the second one. EXPECTED is

    be1,be3 masq 8080   all of these answer, nobody else; they see the client's address (`same`), another one
                        (`masq`) or either (`any`); on this port, if one is named. `be1:80,be1:8080` are two
    sticky be1,be3 …    one of these, the same every time
    forgets be1,be3 …   one of these, and after a while another (affinity of one second)
    forgets after 65 be1,be3 …   the same, when the client has been silent for so many seconds
    REFUSED  DROPPED    turned away loudly, silently
    IGNORED             left alone: what the plain kernel does with it
    BLOCKED             no business of ours, or sent on by us, and stopped silently by the administrator's firewall

Words after `|` restrict a line to one family and some modes; several lines may so say what differs.
"""

from collections.abc import Sequence
from typing import Any

from kubeproxy.model.objects import Protocol, Record
from kubeproxy.testing.build import ports as parse_ports
from tests.scenarios.addresses import EXTRA_CLIENTS, HOSTS

Json = dict[str, Any]

FAMILIES = frozenset(("v4", "v6"))
MODES = frozenset(("iptables", "ipvs", "nftables"))

FORGETTING_SECONDS = 1.3
"""How long a client is silent until an affinity of one second has ended."""


class Step(Record, frozen=True, kw_only=True):
    """A state of the cluster, as far as one row is concerned, and what is then to be found."""

    objects: tuple[Json, ...]
    probes: str


class Row(Record, frozen=True, kw_only=True):
    """States that follow one another. ``site`` names the node's circumstances (`sites.py`)."""

    name: str
    steps: tuple[Step, ...]
    site: str = "usual"


def row(name: str, objects: Sequence[Json], probes: str, *more: object, site: str = "usual") -> Row:
    """Build a row; further states follow as objects, probes, objects, probes…"""
    parts = (objects, probes, *more)
    steps = tuple(
        Step(objects=tuple(o), probes=p)
        for o, p in zip(parts[::2], parts[1::2], strict=True)  # type: ignore[arg-type]
    )
    return Row(name=name, steps=steps, site=site)


def svc(
    ports: str | list[Json] = "80",
    ways: str = "",
    *,
    name: str = "web",
    families: str = "v4 v6",
    meta: Json | None = None,
    **spec: Any,
) -> Json:
    """Build a Service's JSON. ``ways`` of `nodeport external balancer`; further fields are those of its spec.

    ``ports`` are written as in `kubeproxy.testing.build`, or JSON.
    """
    words = ways.split()
    kind = "LoadBalancer" if "balancer" in words else "NodePort" if "nodeport" in words else "ClusterIP"
    entries = ports if isinstance(ports, list) else _service_ports(ports, "nodeport" in words)
    body: Json = {"type": kind, "clusterIPs": ["$cluster"], "ports": entries}
    if "external" in words:
        body["externalIPs"] = ["$external"]
    status: Json = {"loadBalancer": {"ingress": [{"ip": "$balancer"}]}} if "balancer" in words else {}
    status = spec.pop("status", status)
    return {
        "kind": "Service",
        "metadata": {"name": name, **(meta or {})},
        "spec": body | spec,
        "status": status,
        "_families": families,
    }


def _service_ports(text: str, exposed: bool) -> list[Json]:
    entries: list[Json] = []
    for port in parse_ports(text):
        entries.append({"name": port.name, "port": port.port, "protocol": port.protocol.value})
        if exposed:
            entries[-1]["nodePort"] = "$nodeport"
    return entries


def eps(*endpoints: str, ports: str = "80", service: str = "web", suffix: str = "1", **labels: str) -> Json:
    """Build an EndpointSlice's JSON, which becomes one slice a family.

    An endpoint is a host's name or an address, then words: `unready`, `terminating` (still serving), `gone` (not
    even that), `leaving` (ready and terminating: publishNotReadyAddresses), `on=NODE` (its node; `on=` none),
    `zone=A+B` and `node=A+B` (hints). ``ports`` as in `kubeproxy.testing.build`: `80>8080` is port 80 at 8080.
    """
    return {
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-{suffix}",
            "labels": {"kubernetes.io/service-name": service, **labels},
        },
        "addressType": "$family",
        "ports": [{"name": p.name, "port": p.target, "protocol": p.protocol.value} for p in parse_ports(ports)],
        "endpoints": [_endpoint(text) for text in endpoints],
    }


_CONDITIONS: dict[str, Json] = {
    "unready": {"ready": False, "serving": False, "terminating": False},
    "terminating": {"ready": False, "serving": True, "terminating": True},
    "gone": {"ready": False, "serving": False, "terminating": True},
    "leaving": {"ready": True, "serving": True, "terminating": True},
}


def _endpoint(text: str) -> Json:
    who, *words = text.split()
    address = f"${who}" if who in HOSTS else who
    found: Json = {"addresses": [address], "conditions": {"ready": True}}
    if who in HOSTS:
        found["nodeName"] = "node2" if HOSTS[who].namespace == "far" else "node1"
    for word in words:
        key, _, value = word.partition("=")
        if word in _CONDITIONS:
            found["conditions"] = _CONDITIONS[word]
        elif key == "on":
            found["nodeName"] = value or None
        elif key in ("zone", "node"):
            field = {"zone": "forZones", "node": "forNodes"}[key]
            found.setdefault("hints", {})[field] = [{"name": each} for each in value.split("+")]
        else:
            raise ValueError(f"{text!r}: what is {word!r}?")
    return found


class Expect(Record, frozen=True, kw_only=True):
    """What a probe must find."""

    kind: str
    """answer, sticky, forgets, REFUSED, DROPPED, IGNORED or BLOCKED."""
    servers: tuple[tuple[str, int], ...] = ()
    """Name and port (0: any) of all who answer."""
    client: str = "any"
    """same, masq or any: the address that they see."""
    seconds: float = FORGETTING_SECONDS
    """How long a client is silent until it is forgotten."""


class Line(Record, frozen=True, kw_only=True):
    """One question of a probe's line, still in symbols."""

    client: str
    protocol: Protocol
    where: str
    port: int
    expect: Expect
    text: str


def lines(probes: str, family: str, mode: str) -> list[Line]:
    """Parse the lines that hold for a family (`v4`, `v6`) and mode (`iptables`, …). Raises ValueError."""
    found = []
    for text in filter(None, map(str.strip, probes.splitlines())):
        question, arrow, rest = text.partition(" -> ")
        expected, _, when = rest.partition("|")
        conditions = set(when.split())
        if not arrow or not conditions <= FAMILIES | MODES:
            raise ValueError(f"{text!r} is no probe; write CLIENT WHERE:PORT -> EXPECTED")
        wanted_families, wanted_modes = conditions & FAMILIES or FAMILIES, conditions & MODES or MODES
        if family in wanted_families and mode in wanted_modes:
            found += _questions(question, parse_expect(expected), text)
    return found


def _questions(question: str, expect: Expect, text: str) -> list[Line]:
    clients, *middle, destinations = question.split()
    where, _, port = destinations.rpartition(":")
    if clients == "clients":
        clients = ",".join(f"client{i}" for i in range(EXTRA_CLIENTS))
    protocol = Protocol(middle[0]) if middle else Protocol.TCP
    for client in clients.split(","):
        if client not in HOSTS:
            raise ValueError(f"{text!r}: who is {client!r}?")
    return [
        Line(client=client, protocol=protocol, where=each, port=int(port), expect=expect, text=text)
        for client in clients.split(",")
        for each in where.split(",")
    ]


def parse_expect(text: str) -> Expect:
    """Parse what stands after the arrow. Raises ValueError."""
    words = text.split()
    if words and words[0] in ("REFUSED", "DROPPED", "IGNORED", "BLOCKED"):
        return Expect(kind=words[0])
    kind = words.pop(0) if words[0] in ("sticky", "forgets") else "answer"
    seconds = FORGETTING_SECONDS
    if words[0] == "after":
        seconds, words = float(words[1]), words[2:]
    names, client, *port = words
    default = int(port[0]) if port else 0
    servers = []
    for name in names.split(","):
        who, _, own = name.partition(":")
        if who not in HOSTS and who != "crowd":
            raise ValueError(f"{text!r}: who is {who!r}?")
        servers.append((who, int(own or default)))
    if client not in ("same", "masq", "any"):
        raise ValueError(f"{text!r}: {client!r} is neither same, masq nor any")
    return Expect(kind=kind, servers=tuple(servers), client=client, seconds=seconds)
