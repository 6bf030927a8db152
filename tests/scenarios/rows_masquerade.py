"""Whose address an endpoint sees: how pods are told from strangers, and who is masqueraded."""

from tests.scenarios.table import eps, row, svc

WAYS = "nodeport external balancer"
ALL = [svc("80", WAYS), eps("be1", "be3")]
NEAR = [svc("80", WAYS), eps("be1")]
LOCAL = [svc("80", WAYS, externalTrafficPolicy="Local"), eps("be1", "be3")]
INTERNAL = [svc("80", WAYS, internalTrafficPolicy="Local"), eps("be1", "be3")]
BOTH = [svc("80", WAYS, internalTrafficPolicy="Local", externalTrafficPolicy="Local"), eps("be1", "be3")]

ROWS = [
    row(
        "a cluster IP asked from outside the pod network is masqueraded",
        ALL,
        """
        node,outside,blocked cluster:80 -> be1,be3 masq
        pod,be2,bridged cluster:80 -> be1,be3 same
        """,
    ),
    row("pods of other nodes are pods", NEAR, "farpod cluster:80 -> be1 same"),
    row(
        "nobody is masqueraded at a cluster IP when the pod network is unknown",
        ALL,
        """
        pod,outside,node cluster:80 -> be1,be3 any
        pod cluster:80 -> be1,be3 same
        outside cluster:80 -> be1,be3 same
        outside,pod external,balancer,nodeport:80 -> be1,be3 masq
        be1 cluster:80 -> be1,be3 any
        """,
        site="no detector",
    ),
    row(
        "hairpin works without a detector",
        NEAR,
        "be1 cluster:80 -> be1 masq",
        site="no detector",
    ),
    row(
        "without a detector pods of a Local Service's node port have no short cut",
        LOCAL,
        """
        pod,outside external,balancer,nodeport:80 -> be1 same
        node external,balancer,nodeport:80 -> be1,be3 masq
        """,
        site="no detector",
    ),
    row(
        "masquerade all: cluster IPs",
        ALL,
        """
        pod,be2,bridged,node,outside cluster:80 -> be1,be3 masq
        outside,pod external,balancer,nodeport:80 -> be1,be3 masq
        """,
        site="masquerade all",
    ),
    row(
        "masquerade all: external policy Local keeps addresses",
        LOCAL,
        """
        pod cluster:80 -> be1,be3 masq
        outside external,balancer,nodeport:80 -> be1 same
        pod external,balancer,nodeport:80 -> be1,be3 same
        """,
        site="masquerade all",
    ),
    row(
        "masquerade all: internal policy Local",
        INTERNAL,
        """
        pod,node cluster:80 -> be1 masq
        outside external,balancer,nodeport:80 -> be1,be3 masq
        """,
        site="masquerade all",
    ),
    row(
        "masquerade all: both policies Local",
        BOTH,
        """
        pod,node cluster:80 -> be1 masq
        outside external,balancer,nodeport:80 -> be1 same
        """,
        site="masquerade all",
    ),
    row(
        "this node's pods only: another node's pod is a stranger",
        [*NEAR, svc("80", WAYS, name="api", externalTrafficPolicy="Local"), eps("be1", "be3", service="api")],
        """
        pod,be2,bridged cluster:80 -> be1 same
        farpod,outside,node cluster:80 -> be1 masq
        farpod api/external,api/nodeport:80 -> be1 same
        pod api/external,api/nodeport:80 -> be1,be3 same
        """,
        site="node CIDR",
    ),
    row(
        "pods are what comes over a bridge",
        [*NEAR, svc("80", WAYS, name="api", externalTrafficPolicy="Local"), eps("be1", "be3", service="api")],
        """
        bridged cluster:80 -> be1 same
        pod,be2,farpod,outside,node cluster:80 -> be1 masq
        bridged api/external,api/nodeport:80 -> be1,be3 same
        pod,outside api/external,api/nodeport:80 -> be1 same
        """,
        site="bridge",
    ),
    row(
        "pods are what comes over interfaces of a prefix",
        [*NEAR, svc("80", WAYS, name="api", externalTrafficPolicy="Local"), eps("be1", "be3", service="api")],
        """
        pod,be2 cluster:80 -> be1 same
        bridged,farpod,outside,node cluster:80 -> be1 masq
        pod api/external,api/nodeport:80 -> be1,be3 same
        bridged,outside api/external,api/nodeport:80 -> be1 same
        """,
        site="interface prefix",
    ),
]
