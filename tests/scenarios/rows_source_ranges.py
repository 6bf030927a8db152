"""loadBalancerSourceRanges: who may come through a load balancer's address, and through nothing else."""

from tests.scenarios.table import Json, eps, row, svc

WAYS = "nodeport external balancer"


def ranged(*ranges: str, ports: str = "80", **more: object) -> Json:
    return svc(ports, WAYS, loadBalancerSourceRanges=list(ranges), **more)  # type: ignore[arg-type]


ROWS = [
    row(
        "source ranges guard the load balancer's address, and nothing else",
        [ranged("$outside/host"), eps("be1", "be3")],
        """
        outside balancer:80 -> be1,be3 masq
        blocked,altout,pod,farpod,node balancer:80 -> DROPPED
        blocked,pod,node nodeport,external:80 -> be1,be3 masq
        pod cluster:80 -> be1,be3 same
        """,
    ),
    row(
        "they may be written with spaces around",
        [ranged("  $outside/host ", " 203.0.113.0/24"), eps("be1")],
        """
        outside balancer:80 -> be1 masq
        blocked balancer:80 -> DROPPED
        """,
    ),
    row(
        "several ranges",
        [ranged("$outside/host", "$altout/net", "$pod/host"), eps("be1")],
        """
        outside,altout,pod balancer:80 -> be1 masq
        blocked,be2 balancer:80 -> DROPPED
        """,
    ),
    row(
        "a node in the ranges is let in, whatever address it speaks from",
        [ranged("$node/host"), eps("be1")],
        """
        node balancer:80 -> be1 masq
        outside,pod balancer:80 -> DROPPED
        """,
    ),
    row(
        "a node that holds the load balancer's address speaks from it, and is let in if its own is",
        [
            svc(
                "778",
                status={"loadBalancer": {"ingress": [{"ip": "$alt"}]}},
                type="LoadBalancer",
                loadBalancerSourceRanges=["$node/host"],
            ),
            eps("be1", ports="778>80"),
            svc(
                "779",
                name="api",
                status={"loadBalancer": {"ingress": [{"ip": "$alt"}]}},
                type="LoadBalancer",
                loadBalancerSourceRanges=["$outside/host"],
            ),
            eps("be1", ports="779>80", service="api"),
        ],
        """
        node alt:778 -> be1 masq 80
        outside,pod alt:778 -> DROPPED
        outside alt:779 -> be1 masq 80
        node,blocked alt:779 -> DROPPED
        """,
    ),
    row(
        "Services that share a load balancer's address have each their own ranges",
        [
            ranged("$outside/host"),
            eps("be1"),
            svc(
                "81",
                name="api",
                type="LoadBalancer",
                status={"loadBalancer": {"ingress": [{"ip": "$balancer:web"}]}},
                loadBalancerSourceRanges=["$blocked/host"],
            ),
            eps("be2", ports="81>80", service="api"),
            svc(
                "82",
                name="open",
                type="LoadBalancer",
                status={"loadBalancer": {"ingress": [{"ip": "$balancer:web"}]}},
            ),
            eps("be3", ports="82>80", service="open"),
        ],
        """
        outside balancer:80 -> be1 masq
        blocked balancer:80 -> DROPPED
        blocked balancer:81 -> be2 masq
        outside balancer:81 -> DROPPED
        outside,blocked,pod balancer:82 -> be3 masq
        """,
    ),
    row(
        "one pod only",
        [ranged("$pod/host"), eps("be1")],
        """
        pod balancer:80 -> be1 masq
        be2,outside balancer:80 -> DROPPED
        """,
    ),
    row(
        "a range that admits everybody makes the list void",
        [ranged("$outside/host", "$any"), eps("be1")],
        "outside,blocked,pod,node balancer:80 -> be1 masq",
    ),
    row(
        "a family without ranges of its own is not guarded",
        [ranged("192.168.56.201/32"), eps("be1")],
        """
        outside balancer:80 -> DROPPED | v4
        outside balancer:80 -> be1 masq | v6
        blocked balancer:80 -> be1 masq
        """,
    ),
    row(
        "by UDP and SCTP too",
        [
            ranged("$outside/host", ports="udp=53/UDP,sctp=53/SCTP"),
            eps("be1", ports="udp=53/UDP,sctp=53/SCTP"),
        ],
        """
        outside UDP balancer:53 -> be1 masq
        outside SCTP balancer:53 -> be1 masq
        blocked,pod,node UDP balancer:53 -> DROPPED
        blocked SCTP balancer:53 -> DROPPED
        """,
    ),
    row(
        "every address and port of the load balancer is guarded",
        [
            ranged(
                "$outside/host",
                ports="a=80,b=81",
                status={"loadBalancer": {"ingress": [{"ip": "$balancer"}, {"ip": "$balancer2"}]}},
            ),
            eps("be1", ports="a=80,b=81>8080"),
        ],
        """
        outside balancer,balancer2:80 -> be1 masq 80
        outside balancer,balancer2:81 -> be1 masq 8080
        blocked,node balancer,balancer2:80 -> DROPPED
        blocked balancer,balancer2:81 -> DROPPED
        """,
    ),
    row(
        "nobody there: who is admitted hears so, who is not hears nothing",
        [ranged("$outside/host")],
        """
        outside balancer:80 -> REFUSED
        blocked,pod,node balancer:80 -> DROPPED
        blocked,pod external,nodeport:80 -> REFUSED
        """,
    ),
    row(
        "nobody there, and the node is admitted",
        [ranged("$node/host")],
        """
        node balancer:80 -> REFUSED
        outside balancer:80 -> DROPPED
        """,
    ),
    row(
        "under policy Local who is admitted reaches only who is here, with his own address",
        [ranged("$outside/host", "$pod/host", externalTrafficPolicy="Local"), eps("be1", "be3")],
        """
        outside balancer:80 -> be1 same
        blocked balancer:80 -> DROPPED
        pod balancer:80 -> be1,be3 same
        """,
    ),
    row(
        "under policy Local with nobody here everybody is dropped",
        [ranged("$outside/host", externalTrafficPolicy="Local"), eps("be3")],
        """
        outside,blocked balancer:80 -> DROPPED
        pod balancer:80 -> DROPPED
        """,
    ),
    row(
        "ranges without a load balancer's address guard nothing",
        [svc("80", "nodeport external", loadBalancerSourceRanges=["$outside/host"]), eps("be1")],
        """
        blocked,outside external,nodeport:80 -> be1 masq
        pod cluster:80 -> be1 same
        """,
    ),
    row(
        "none, one pod, everybody, nobody, none again",
        [ranged(), eps("be1")],
        "outside,pod balancer:80 -> be1 masq",
        [ranged("$pod/host"), eps("be1")],
        """
        pod balancer:80 -> be1 masq
        outside balancer:80 -> DROPPED
        """,
        [ranged("$any"), eps("be1")],
        "outside,pod balancer:80 -> be1 masq",
        [ranged("203.0.113.1/32", "2001:db8:ffff::1/128"), eps("be1")],
        "outside,pod,node balancer:80 -> DROPPED",
        [ranged(), eps("be1")],
        "outside,pod balancer:80 -> be1 masq",
    ),
    row(
        "ranges of which none can be read admit nobody",
        [ranged("no range", "10.0.0.0/99"), eps("be1")],
        """
        outside,pod,node balancer:80 -> DROPPED
        outside external,nodeport:80 -> be1 masq
        """,
    ),
    row(
        "a range that cannot be read opens the door to neither family",
        [ranged("192.168.56.201/32", "2001:db8:56::201/129"), eps("be1")],
        """
        outside,pod,node balancer:80 -> DROPPED
        blocked balancer:80 -> be1 masq | v4
        blocked balancer:80 -> DROPPED | v6
        """,
    ),
    row(
        "a load balancer's address that is an external IP too is guarded",
        [ranged("$outside/host", externalIPs=["$balancer"]), eps("be1")],
        """
        outside balancer:80 -> be1 masq
        blocked,pod,node balancer:80 -> DROPPED
        """,
    ),
]
