"""Rows → Worlds: what the store says while rows that share a site run through their steps together. Pure.

Objects pass the model's own decoder and the label selectors that the agent's informers ask for, so a row may hold
whatever JSON an API server could hand out.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from kubeproxy.model.addresses import Family
from kubeproxy.model.decode import (
    HEADLESS_LABEL,
    PROXY_NAME_LABEL,
    DecodeError,
    decode_proxy_slice,
    decode_service,
)
from kubeproxy.model.ident import Key
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import EndpointSlice, Record, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from tests.scenarios.scene import Case, Scene
from tests.scenarios.sites import SITES
from tests.scenarios.table import Row


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One state of a site's cluster, and everything that is to be asked then."""

    site: str
    step: int
    settings: Settings
    world: World
    """Valid until the next Moment is asked for: it is the same World, moving on."""
    touched: frozenset[Key] | None
    """Services that a partial sync must look at; None where a full one is due (start, or the node changed)."""
    cases: tuple[Case, ...]


class Question(Record, frozen=True, kw_only=True):
    """One case with the state of the cluster in which it holds, for whoever predicts packets."""

    case: Case
    world: World
    settings: Settings


def questions(rows: Sequence[Row], mode: str, families: Iterable[Family] = tuple(Family)) -> Iterator[Question]:
    """Yield every question of the table; each World is that of its moment only until the next one begins."""
    for site in dict.fromkeys(row.site for row in rows):
        for moment in moments(rows, site, mode, families):
            for case in moment.cases:
                yield Question(case=case, world=moment.world, settings=moment.settings)


def moments(rows: Sequence[Row], site: str, mode: str, families: Iterable[Family]) -> Iterator[Moment]:
    """Step the rows of one site; ``mode`` is a probe line's word. A row's number is its place among all rows."""
    scenes = [Scene(row, number) for number, row in enumerate(rows) if row.site == site]
    place, world = SITES[site], World()
    ipvs = IpvsSettings() if mode == "ipvs" else None
    settings = msgspec.structs.replace(place.settings, ipvs=ipvs)
    if mode == "nftables":
        settings = msgspec.structs.replace(settings, localhost_nodeports=False)
    known: dict[str, dict[Key, Service | EndpointSlice]] = {"Service": {}, "EndpointSlice": {}}
    for step in range(max(len(scene.row.steps) for scene in scenes)):
        changed = world.apply_node(place.node(step))
        changed |= world.apply_service_cidrs(place.cidrs(step))
        touched: set[Key] = set()
        for kind, now in _listed(scenes, step).items():
            gone = dict.fromkeys(known[kind].keys() - now.keys())
            apply = world.apply_services if kind == "Service" else world.apply_slices
            touched |= apply(now | gone)  # type: ignore[operator]
            known[kind] = now
        yield Moment(
            site=site,
            step=step,
            settings=settings,
            world=world,
            touched=None if changed or not step else frozenset(touched),
            cases=tuple(
                case for scene in scenes for family in families for case in scene.cases(step, family, mode)
            ),
        )


def _listed(scenes: Iterable[Scene], step: int) -> dict[str, dict[Key, Service | EndpointSlice]]:
    found: dict[str, dict[Key, Service | EndpointSlice]] = {"Service": {}, "EndpointSlice": {}}
    for scene in scenes:
        for kind, data in scene.objects(step):
            if _is_watched(data):
                try:
                    value = decode_service(data) if kind == "Service" else decode_proxy_slice(data)
                except DecodeError:
                    continue  # the informer counts it and goes on
                found[kind][value.namespace, value.name] = value
    return found


class _Labelled(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Object(msgspec.Struct):
    metadata: _Labelled


def _is_watched(data: bytes) -> bool:
    labels = msgspec.json.decode(data, type=_Object).metadata.labels or {}
    return not labels.keys() & {PROXY_NAME_LABEL, HEADLESS_LABEL}
