"""The same random commands to IPVS in the kernel and to its model."""

import random

from kubeproxy.kernel.fake_ipvs import SCHEDULERS, FakeVirtualServers
from kubeproxy.kernel.ipvs_overview import Overview
from kubeproxy.kernel.ipvs_types import (
    FALLBACK,
    ONE_PACKET,
    SOURCE_PORT,
    Command,
    Destination,
    Server,
    ServerKey,
    Verb,
    mark_key,
)
from kubeproxy.kernel.virtual_servers import VirtualServers
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

STEPS = 40
ADDRESSES = ("10.96.0.1", "10.96.0.2", "fd00:10::1", "fd00:10::ffff:2")
KEYS = (
    *(
        ServerKey(protocol, address, port)
        for protocol in Protocol
        for address in ADDRESSES
        for port in (53, 65535)
    ),
    *(mark_key(family, mark) for family in Family for mark in (1, 0x6B000001, 0xFFFFFFFF)),
)
PODS = (
    "10.244.1.1",
    "10.244.1.2",
    "fd00:244::1",
    "fd00:244::a:2",
    "224.0.0.1",
    "0.0.0.0",
    "::",
    "ff02::1",
    "fe80::9",
)
WEIGHTS = (0, 1, 1, 1, 65535, -1)


def command(dice: random.Random, keys: tuple[ServerKey, ...]) -> Command:
    verb, key = dice.choice(list(Verb)), dice.choice(keys)
    scheduler = dice.choice(("rr", "wlc", "sh", "mh", "nosuch"))
    flags = dice.choice((0, 0, FALLBACK, SOURCE_PORT | FALLBACK, ONE_PACKET))
    server = Server(key, scheduler, dice.choice((0, 0, 30, 10800, 86400)), flags)
    if verb in (Verb.ADD_SERVER, Verb.SET_SERVER, Verb.DELETE_SERVER):
        return Command(verb, server)
    pods = [pod for pod in PODS if dice.random() < 0.2 or (":" in pod) is (key.family is Family.V6)]
    destination = Destination(dice.choice(pods or PODS), dice.choice((80, 8080)), dice.choice(WEIGHTS))
    return Command(verb, server, destination)


def state(servers: VirtualServers) -> list[str]:
    found = [str(server) for family in Family for server in servers.servers(family).values()]
    held = [f"{key}: {servers.destinations(key)}" for key in KEYS]
    overview = servers.overview(Family.V4)
    assert overview is not None
    assert len(overview) == servers.count(Family.V4) == len(overview.outlines())
    assert overview.of(KEYS) == overview.outlines()
    found += map(str, overview.outlines().values())
    return sorted(found) + [line for line in held if not line.endswith(": []")]


def changed(servers: VirtualServers, before: Overview | None) -> set[ServerKey]:
    """Return the virtual servers of which an overview says something else than before."""
    now = servers.overview(Family.V4)
    assert now is not None
    assert before is not None
    return now.differing(before)


def differences(seed: int, real: VirtualServers) -> list[str]:
    """Play one history in sends of random length until the two differ; say in what."""
    dice, model = random.Random(seed), FakeVirtualServers()
    keys = tuple(dice.sample(KEYS, 4))
    real.flush()
    done = 0
    while done < STEPS:
        commands = [command(dice, keys) for _ in range(dice.randint(1, 8))]
        done += len(commands)
        before = [each.overview(Family.V4) for each in (real, model)]
        answers, expected = real.run(commands), model.run(commands)
        pairs = zip(commands, answers, expected, strict=True)
        wrong = [f"{one}: {answer}, the model {other}" for one, answer, other in pairs if answer != other]
        wrong += [f"only one has {line}" for line in set(state(real)) ^ set(state(model))]
        one, other = (changed(each, then) for each, then in zip((real, model), before, strict=True))
        wrong += [f"only one calls {key} changed" for key in one ^ other]
        if wrong:
            return wrong
    return []


def settings(servers: VirtualServers) -> list[object]:
    """What there is besides servers, in the kernel's words or the model's."""
    found: list[object] = [servers.available(), servers.timeouts()]
    for change in ({"tcp": 901}, {"tcp_fin": 61, "udp": 301}, {"tcp": 900, "tcp_fin": 120, "udp": 300}):
        servers.set_timeouts(**change)
        found.append(servers.timeouts())
    found += [(name, servers.has_scheduler(name)) for name in sorted(SCHEDULERS | {"nosuch"})]
    return [*found, servers.flush(), state(servers)]
