"""Session affinity: a client stays with its endpoint, by each way in, until it has been silent for long enough."""

from tests.scenarios.table import Json, eps, row, svc

WAYS = "nodeport external balancer"
THREE = eps("be1", "be2", "be3")


def sticky(ports: str = "80", ways: str = WAYS, seconds: int = 10800, **more: object) -> Json:
    config = {"clientIP": {"timeoutSeconds": seconds}}
    return svc(ports, ways, sessionAffinity="ClientIP", sessionAffinityConfig=config, **more)  # type: ignore[arg-type]


ROWS = [
    row(
        "a client stays with its endpoint",
        [sticky(), THREE],
        """
        pod,be1,bridged,node cluster:80 -> sticky be1,be2,be3 any
        outside,blocked external,balancer,nodeport:80 -> sticky be1,be2,be3 masq
        """,
    ),
    row(
        "each of twenty clients does, and all endpoints are used",
        [sticky(), eps("be1", "be2")],
        "clients nodeport:80 -> sticky be1,be2 masq",
    ),
    row(
        "each Service remembers for itself",
        [
            sticky(),
            THREE,
            sticky(name="api"),
            eps("be1", "be2", "be3", service="api"),
            svc("80", WAYS, name="loose"),
            eps("be1", "be2", "be3", service="loose"),
        ],
        """
        pod cluster,api/cluster:80 -> sticky be1,be2,be3 same
        pod loose/cluster:80 -> be1,be2,be3 same
        """,
    ),
    row(
        "each port of a Service does, and each protocol",
        [
            sticky("tcp=53/TCP,udp=53/UDP,http=80"),
            eps("be1", "be2", "be3", ports="tcp=53/TCP,udp=53/UDP,http=80>8080"),
        ],
        """
        pod TCP cluster:53 -> sticky be1,be2,be3 same 53
        pod UDP cluster:53 -> sticky be1,be2,be3 same 53
        outside UDP nodeport,external:53 -> sticky be1,be2,be3 masq 53
        pod TCP cluster:80 -> sticky be1,be2,be3 same 8080
        """,
    ),
    # IPVS looks once a minute whether a client's connections have ended, and remembers a closed one for a while.
    row(
        "one second of affinity ends",
        [sticky(seconds=1), THREE],
        """
        pod cluster:80 -> forgets be1,be2,be3 same | iptables nftables
        outside nodeport:80 -> forgets be1,be2,be3 masq | iptables nftables
        pod cluster:80 -> forgets after 65 be1,be2,be3 same | ipvs
        outside nodeport:80 -> forgets after 65 be1,be2,be3 masq | ipvs
        """,
    ),
    row(
        "an endpoint that goes frees its clients",
        [sticky(), eps("be1")],
        "pod,outside cluster:80 -> sticky be1 any",
        [sticky(), eps("be2", "be3")],
        "pod,outside cluster:80 -> sticky be2,be3 any",
        [sticky()],
        "pod cluster:80 -> REFUSED",
        [sticky(), eps("be2", "be3")],
        "pod cluster:80 -> sticky be2,be3 same",
    ),
    row(
        "affinity is switched on, and off again",
        [svc("80", WAYS), THREE],
        "pod,outside cluster,nodeport:80 -> be1,be2,be3 any",
        [sticky(), THREE],
        "pod,outside cluster,nodeport:80 -> sticky be1,be2,be3 any",
        [svc("80", WAYS), THREE],
        "pod,outside cluster,nodeport:80 -> be1,be2,be3 any",
    ),
    row(
        "a pod that is its own Service's endpoint stays too",
        [sticky(), eps("be1", "be2")],
        "be1,be2 cluster:80 -> sticky be1,be2 any",
    ),
    row(
        "affinity under policy Local: outside stays with who is here",
        [sticky(externalTrafficPolicy="Local"), eps("be1", "be2", "be3", "be4")],
        """
        outside,blocked external,nodeport:80 -> sticky be1,be2 same
        pod cluster:80 -> sticky be1,be2,be3,be4 same
        """,
    ),
    row(
        "affinity and internal policy Local",
        [sticky(internalTrafficPolicy="Local"), eps("be1", "be2", "be3")],
        """
        pod cluster:80 -> sticky be1,be2 same
        outside nodeport:80 -> sticky be1,be2,be3 masq
        """,
    ),
]
