"""A row made concrete: its objects as the API's JSON with real addresses, its probes as questions to ask.

Each row has its own namespace (`r17`), cluster IPs, external addresses and node ports, counted from its number.
"""

import json
import re
from collections.abc import Iterator

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol, Record
from tests.scenarios.addresses import HOSTS, LOOPBACK, NODE, SERVICE_NETWORK, V4, crowd, name_of, virtual
from tests.scenarios.table import Expect, Json, Line, Row, lines

FIRST_NODE_PORT, FIRST_HEALTH_PORT, NODE_PORTS_A_ROW = 30000, 20000, 10
SPACING = 10
"""Addresses of one kind that a Service may have: `external` to `external9`; the last one is never given away."""

_SYMBOL = re.compile(r"\$([a-z]+\d*)(?::([a-z]+))?(/host|/net)?")
_WHERE = re.compile(r"(?:(?P<service>[a-z.]+)/)?(?P<way>[a-z]+)(?P<number>\d?)(?:@(?P<on>\w+))?")


class Case(Record, frozen=True, kw_only=True):
    """One question with real addresses, and what must be found."""

    row: str
    namespace: str
    """Where the row's objects are."""
    step: int
    family: Family
    client: str
    """The client's name in `addresses.HOSTS`."""
    source: str
    """Its address, as far as it can be known before."""
    interface: str
    """By which interface it reaches the node; "" when it is the node's own process."""
    protocol: Protocol
    address: str
    port: int
    expect: Expect
    text: str
    """The line of the table."""

    def __str__(self) -> str:
        proto = "" if self.protocol is Protocol.TCP else f" {self.protocol}"
        question = f"{self.client}{proto} {self.address} port {self.port}"
        return f"{self.row}, step {self.step}, {self.family.label}: {question} (`{self.text}`)"


class Scene:
    """The addresses of one row."""

    def __init__(self, row: Row, number: int) -> None:
        self.row = row
        self.namespace = f"r{number}"
        self._number = number
        self._services: dict[str, int] = {}
        self._node_ports: dict[tuple[str, int], int] = {}

    def objects(self, step: int) -> Iterator[tuple[str, bytes]]:
        """Yield kind and JSON of the objects of a step."""
        for each in self.row.steps[min(step, len(self.row.steps) - 1)].objects:
            if each.get("addressType") == "$family":
                for family in Family:
                    yield "EndpointSlice", self._slice(each, family)
            else:
                yield each["kind"], self._whole(each)

    def cases(self, step: int, family: Family, mode: str) -> list[Case]:
        """Return the questions of a step, none when the row has ended."""
        if step >= len(self.row.steps):
            return []
        label = "v4" if family is V4 else "v6"
        return [self._case(line, step, family) for line in lines(self.row.steps[step].probes, label, mode)]

    def _case(self, line: Line, step: int, family: Family) -> Case:
        address, port = self._destination(line, family)
        host = HOSTS[line.client]
        own = host.namespace == "node"
        local = own and name_of(address) == "node"
        return Case(
            row=self.row.name,
            namespace=self.namespace,
            step=step,
            family=family,
            client=line.client,
            source=address if local else (NODE if own else host).address(family),
            interface=host.interface,
            protocol=line.protocol,
            address=address,
            port=port,
            expect=line.expect,
            text=line.text,
        )

    def _destination(self, line: Line, family: Family) -> tuple[str, int]:
        if line.where in HOSTS:
            return HOSTS[line.where].address(family), line.port
        match = _WHERE.fullmatch(line.where)
        if match is None:
            return line.where, line.port
        service, way = match["service"] or "web", match["way"]
        if way in ("nodeport", "health"):
            port = self._node_port(service, line.port) if way == "nodeport" else self._health_port()
            host = {"": NODE, "localhost": LOOPBACK}.get(match["on"] or "") or HOSTS[match["on"]]
            return host.address(family), port
        return self._virtual(service, way, match["number"], family), line.port

    def _virtual(self, service: str, way: str, number: str, family: Family) -> str:
        first = self._services.setdefault(service, len(self._services)) * SPACING
        if way == "unallocated":
            return virtual("cluster", family, self._number, first + SPACING - 1)
        return virtual(way, family, self._number, first + int(number or 1) - 1)

    def _node_port(self, service: str, port: int) -> int:
        place = self._node_ports.setdefault((service, port), len(self._node_ports))
        assert place < NODE_PORTS_A_ROW, f"{self.row.name}: too many node ports"
        return FIRST_NODE_PORT + self._number * NODE_PORTS_A_ROW + place

    def _health_port(self) -> int:
        return FIRST_HEALTH_PORT + self._number

    def _slice(self, piece: Json, family: Family) -> bytes:
        meta = {"namespace": self.namespace, **piece["metadata"]}
        meta["name"] = f"{meta['name']}-v{family.value}"
        service = meta["labels"]["kubernetes.io/service-name"]
        filled = {key: self._fill(piece[key], service, family) for key in ("ports", "endpoints")}
        return json.dumps(filled | {"metadata": meta, "addressType": family.label}).encode()

    def _whole(self, found: Json) -> bytes:
        """Fill in an object in which one list holds both families' addresses."""
        wanted = found.get("_families", "v4 v6")
        families = [family for family in Family if f"v{family.value}" in wanted]
        meta = {"namespace": self.namespace, **found["metadata"]}
        name = meta["name"]
        body = {key: self._spread(value, name, families) for key, value in found.items() if key[0] != "_"}
        for port in body.get("spec", {}).get("ports") or ():
            if isinstance(port.get("port"), str):  # "$nodeport:web:80": the number of that node port
                _, owner, number = port["port"].split(":")
                port["port"] = self._node_port(owner, int(number))
            if port.get("nodePort") == "$nodeport":
                port["nodePort"] = self._node_port(name, port["port"])
        if body.get("spec", {}).get("healthCheckNodePort") == "$health":
            body["spec"]["healthCheckNodePort"] = self._health_port()
        return json.dumps(body | {"metadata": meta}).encode()

    def _spread(self, value: object, service: str, families: list[Family]) -> object:
        if isinstance(value, dict):
            return {key: self._spread(each, service, families) for key, each in value.items()}
        if not isinstance(value, list):
            return value
        found: list[object] = []
        for each in value:
            copies = [self._fill(each, service, family) for family in families] or [each]
            found += copies if copies[0] != each else copies[:1]
        return found

    def _fill(self, value: object, service: str, family: Family) -> object:
        """Replace symbols by addresses of one family, at any depth."""
        if isinstance(value, dict):
            return {key: self._fill(each, service, family) for key, each in value.items()}
        if isinstance(value, list):
            return [self._fill(each, service, family) for each in value]
        if not isinstance(value, str) or "$" not in value:
            return value
        return _SYMBOL.sub(lambda match: self._symbol(match, service, family), value)

    def _symbol(self, match: re.Match[str], service: str, family: Family) -> str:
        name, owner, width = match[1], match[2] or service, match[3]
        if name in ("nodeport", "health"):
            return match[0]
        suffix = {"/host": "/32" if family is V4 else "/128", "/net": "/24" if family is V4 else "/64"}
        tail = suffix[width] if width else ""
        if name == "any":
            return "0.0.0.0/0" if family is V4 else "::/0"
        if name == "services":
            return SERVICE_NETWORK[family]
        if name.startswith("crowd"):
            return crowd(int(name.removeprefix("crowd")), family)
        if name in HOSTS:
            return HOSTS[name].address(family) + tail
        way, number = re.fullmatch(r"([a-z]+)(\d?)", name).groups()  # type: ignore[union-attr]
        return self._virtual(owner, way, number, family) + tail
