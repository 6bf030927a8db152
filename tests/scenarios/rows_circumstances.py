"""What the node meets with: a firewall that is closed, a Node object that changes, comes late, or never comes."""

from tests.scenarios.table import eps, row, svc

WAYS = "nodeport external balancer"
EXPOSED = [svc("80", WAYS), eps("be1", "be3")]
LOCAL = svc("80", WAYS, externalTrafficPolicy="Local", healthCheckNodePort="$health")

ROWS = [
    row(
        "a closed firewall lets masqueraded service traffic pass",
        EXPOSED,
        """
        outside,pod external,balancer,nodeport:80 -> be1,be3 masq | iptables ipvs
        outside cluster:80 -> be1,be3 masq | iptables ipvs
        node cluster,nodeport:80 -> be1,be3 masq
        """,
        site="closed",
    ),
    row(
        "it is for others to let pods speak to pods",
        EXPOSED,
        """
        pod cluster,be2:80 -> DROPPED
        node be1:80 -> be1 same
        """,
        site="closed",
    ),
    row(
        "a health-check node port can be asked through a closed firewall, as long as there is one",
        [LOCAL, eps("be1")],
        """
        outside health:80 -> IGNORED | iptables ipvs
        outside node:8088 -> DROPPED
        """,
        [svc("80", WAYS), eps("be1")],
        "outside health:80 -> DROPPED",
        [LOCAL],
        """
        outside health:80 -> IGNORED | iptables ipvs
        localhost localhost:8088 -> node same
        """,
        [svc("80", "nodeport", externalTrafficPolicy="Local", healthCheckNodePort="$health"), eps("be1")],
        "outside health:80 -> DROPPED",
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
