"""What the node meets with: a firewall that is closed, a Node object that changes, comes late, or never comes."""

from tests.scenarios.table import Json, eps, row, svc

WAYS = "nodeport external balancer"
EXPOSED = [svc("80", WAYS), eps("be1", "be3")]
LOCAL = svc("80", WAYS, externalTrafficPolicy="Local", healthCheckNodePort="$health")

NODE_PORT = svc("80", "nodeport")


def clash(**more: object) -> Json:
    """A Service that has an address of the node's own, at the number of another one's node port."""
    ports = [{"port": "$nodeport:web:80"}]
    return svc(ports, name="api", externalIPs=["$alt"], **more)  # type: ignore[arg-type]


NEAR, THERE = eps("be1"), eps("be3", service="api")

ROWS = [
    row(
        "an address of the node's own comes before a node port of that number, whoever has endpoints",
        [NODE_PORT, NEAR, clash(), THERE],
        """
        outside,pod,node nodeport:80 -> be1 masq
        outside,pod,node nodeport@alt:80 -> be3 masq
        """,
        [NODE_PORT, NEAR, clash()],
        """
        outside,pod,node nodeport:80 -> be1 masq
        outside,pod,node nodeport@alt:80 -> REFUSED
        """,
        [NODE_PORT, NEAR, clash(externalTrafficPolicy="Local"), THERE],
        """
        outside nodeport:80 -> be1 masq
        outside nodeport@alt:80 -> DROPPED
        pod nodeport@alt:80 -> be3 same
        """,
        [NODE_PORT, clash(externalTrafficPolicy="Local"), THERE],
        """
        outside nodeport:80 -> REFUSED
        outside nodeport@alt:80 -> DROPPED
        """,
        [NODE_PORT, clash(), THERE],
        """
        outside,node nodeport:80 -> REFUSED
        outside,node nodeport@alt:80 -> be3 masq
        """,
        [NODE_PORT, NEAR],
        "outside nodeport,nodeport@alt:80 -> be1 masq",
    ),
    row(
        "so it does in whatever order they came",
        [clash(externalTrafficPolicy="Local"), THERE],
        "outside nodeport@alt:80 -> DROPPED",
        [clash(externalTrafficPolicy="Local"), THERE, NODE_PORT],
        """
        outside nodeport:80 -> REFUSED
        outside nodeport@alt:80 -> DROPPED
        """,
        [NODE_PORT],
        "outside nodeport,nodeport@alt:80 -> REFUSED",
        [NODE_PORT, clash(externalTrafficPolicy="Local"), THERE],
        """
        outside nodeport:80 -> REFUSED
        outside nodeport@alt:80 -> DROPPED
        """,
    ),
    row(
        "who is not admitted to a load balancer's address gets no node port of that number either",
        [
            NODE_PORT,
            NEAR,
            svc(
                [{"port": "$nodeport:web:80"}],
                "balancer",
                name="api",
                status={"loadBalancer": {"ingress": [{"ip": "$alt"}]}},
                loadBalancerSourceRanges=["$outside/host"],
            ),
            THERE,
        ],
        """
        outside nodeport@alt:80 -> be3 masq
        blocked,pod nodeport@alt:80 -> DROPPED
        blocked nodeport:80 -> be1 masq
        """,
    ),
    row(
        "a health-check node port of nobody's address",
        [svc("80", WAYS, externalTrafficPolicy="Local", healthCheckNodePort="$health", name="api"), THERE],
        "outside,node health:80 -> IGNORED",
    ),
    row(
        "another mark",
        [*EXPOSED, svc("80", WAYS, name="api", externalTrafficPolicy="Local"), eps("be1", "be3", service="api")],
        """
        outside external,balancer,nodeport,cluster:80 -> be1,be3 masq
        pod cluster:80 -> be1,be3 same
        node api/nodeport:80 -> be1,be3 masq
        outside api/nodeport:80 -> be1 same
        """,
        site="another mark",
    ),
    row(
        "a closed firewall lets masqueraded service traffic pass",
        EXPOSED,
        """
        outside,pod external,balancer,nodeport:80 -> be1,be3 masq | iptables ipvs
        outside cluster:80 -> be1,be3 masq | iptables ipvs
        outside,pod external,balancer,nodeport,cluster:80 -> BLOCKED | nftables
        node cluster,nodeport:80 -> be1,be3 masq
        """,
        site="closed",
    ),
    row(
        "it is for others to let pods speak to pods",
        EXPOSED,
        """
        pod cluster,be2:80 -> BLOCKED
        node be1:80 -> be1 same
        """,
        site="closed",
    ),
    row(
        "a health-check node port can be asked through a closed firewall, as long as there is one",
        [LOCAL, eps("be1")],
        """
        outside health:80 -> IGNORED | iptables ipvs
        outside health:80 -> BLOCKED | nftables
        outside node:8088 -> BLOCKED
        """,
        [svc("80", WAYS), eps("be1")],
        "outside health:80 -> BLOCKED",
        [LOCAL],
        """
        outside health:80 -> IGNORED | iptables ipvs
        outside health:80 -> BLOCKED | nftables
        localhost localhost:8088 -> node same
        """,
        [svc("80", "nodeport", externalTrafficPolicy="Local", healthCheckNodePort="$health"), eps("be1")],
        "outside health:80 -> BLOCKED",
        site="closed",
    ),
    row(
        "refusals are told through a closed firewall",
        [svc("80", WAYS)],
        "outside,pod,node external,balancer,nodeport,cluster:80 -> REFUSED",
        site="closed",
    ),
    row(
        "without a Node object Services are served",
        [*EXPOSED, svc("80", WAYS, name="api", externalTrafficPolicy="Local"), eps("be1", "be3", service="api")],
        """
        pod cluster:80 -> be1,be3 same
        outside external,nodeport,nodeport@alt:80 -> be1,be3 masq
        outside api/external,api/nodeport:80 -> be1 same
        """,
        site="nobody knows the node",
    ),
    row(
        "nor does a node that knows neither itself nor its pods keep its own processes from them",
        [*EXPOSED, svc("80", WAYS, name="api", externalTrafficPolicy="Local"), eps("be1", "be3", service="api")],
        """
        pod,outside cluster:80 -> be1,be3 same
        node cluster,external,nodeport,api/external:80 -> be1,be3 any
        outside api/nodeport:80 -> be1 same
        """,
        site="nobody knows the node, nor its pods",
    ),
    row(
        "the node's address changes: primary node ports move along",
        EXPOSED,
        """
        outside nodeport:80 -> be1,be3 masq
        outside nodeport@alt:80 -> IGNORED
        """,
        EXPOSED,
        """
        outside nodeport@alt:80 -> be1,be3 masq
        outside nodeport:80 -> IGNORED
        """,
        site="the node's address changes",
    ),
    row(
        "the node's pod network comes later: until then nobody is masqueraded",
        [svc("80", WAYS), eps("be1")],
        "pod,outside,farpod cluster:80 -> be1 same",
        [svc("80", WAYS), eps("be1")],
        """
        pod cluster:80 -> be1 same
        outside,farpod cluster:80 -> be1 masq
        """,
        site="the node's pod network comes",
    ),
]
