"""Topology hints: near endpoints alone are taken when all ready ones have a hint and one points here (zone a)."""

from tests.scenarios.table import eps, row, svc

WAYS = "nodeport external"
PLAIN = svc("80", WAYS)

ROWS = [
    row(
        "hints by zone",
        [PLAIN, eps("be1 zone=b", "be2 zone=a", "be3 zone=a", "be4 zone=b")],
        """
        pod cluster:80 -> be2,be3 same
        outside external,nodeport:80 -> be2,be3 masq
        """,
    ),
    row(
        "an endpoint for several zones",
        [PLAIN, eps("be1 zone=a+b", "be3 zone=b+c")],
        "pod cluster:80 -> be1 same",
    ),
    row(
        "one ready endpoint without a hint: hints count for nothing",
        [PLAIN, eps("be1 zone=a", "be2", "be3 zone=b")],
        "pod cluster:80 -> be1,be2,be3 same",
    ),
    row(
        "no hint for our zone: hints count for nothing",
        [PLAIN, eps("be1 zone=b", "be3 zone=c")],
        "pod cluster:80 -> be1,be3 same",
    ),
    row(
        "only ready endpoints are looked at",
        [PLAIN, eps("be1 zone=b", "be2 zone=a unready", "be3 zone=b")],
        "pod cluster:80 -> be1,be3 same",
    ),
    row(
        "an unready endpoint without a hint spoils nothing",
        [PLAIN, eps("be1 zone=b", "be2 unready", "be3 zone=a")],
        "pod cluster:80 -> be3 same",
    ),
    row(
        "terminating ones are taken whatever their hints",
        [PLAIN, eps("be1 zone=a terminating", "be3 zone=b terminating")],
        "pod cluster:80 -> be1,be3 same",
    ),
    row(
        "hints by node",
        [PLAIN, eps("be1 node=node1 zone=a", "be2 node=node1 zone=a", "be3 node=node2 zone=a")],
        """
        pod cluster:80 -> be1,be2 same
        outside nodeport:80 -> be1,be2 masq
        """,
    ),
    row(
        "by node for others only: the zone counts",
        [PLAIN, eps("be1 node=node3 zone=b", "be3 node=node2 zone=a", "be4 node=node2 zone=a")],
        "pod cluster:80 -> be3,be4 same",
    ),
    row(
        "by node, but one has none: the zone counts",
        [PLAIN, eps("be1 node=node1 zone=a", "be3 zone=a", "be4 zone=b")],
        "pod cluster:80 -> be1,be3 same",
    ),
    row(
        "a hint by node is not where the pod is",
        [PLAIN, eps("be3 node=node1", "be1 node=node2")],
        "pod cluster:80 -> be3 same",
    ),
    row(
        "the near one goes, and comes back",
        [PLAIN, eps("be1 node=node1 zone=a", "be3 node=node2 zone=a", "be4 node=node3 zone=b")],
        "pod cluster:80 -> be1 same",
        [PLAIN, eps("be3 node=node2 zone=a", "be4 node=node3 zone=b")],
        "pod cluster:80 -> be3 same",
        [PLAIN, eps("be4 node=node3 zone=b")],
        "pod cluster:80 -> be4 same",
        [PLAIN, eps("be1 node=node1 zone=a", "be3 node=node2 zone=a", "be4 node=node3 zone=b")],
        "pod cluster:80 -> be1 same",
    ),
    row(
        "policy Local knows no hints",
        [
            svc("80", WAYS, externalTrafficPolicy="Local", internalTrafficPolicy="Local"),
            eps("be1 zone=b", "be2 zone=a", "be3 zone=a"),
        ],
        """
        pod cluster:80 -> be1,be2 same
        outside external,nodeport:80 -> be1,be2 same
        """,
    ),
    row(
        "external Local: pods' short cut follows the hints",
        [svc("80", WAYS, externalTrafficPolicy="Local"), eps("be1 zone=b", "be3 zone=a")],
        """
        pod cluster,external,nodeport:80 -> be3 same
        outside external,nodeport:80 -> be1 same
        """,
    ),
    row(
        "trafficDistribution itself is not looked at",
        [svc("80", WAYS, trafficDistribution="PreferSameNode"), eps("be1", "be3")],
        "pod cluster:80 -> be1,be3 same",
    ),
    row(
        "hints go along with session affinity",
        [svc("80", WAYS, sessionAffinity="ClientIP"), eps("be1 zone=b", "be2 zone=a", "be3 zone=a")],
        "pod,outside cluster:80 -> sticky be2,be3 any",
    ),
    row(
        "the node's zone changes, and is lost",
        [PLAIN, eps("be1 zone=a", "be3 zone=b")],
        "pod cluster:80 -> be1 same",
        [PLAIN, eps("be1 zone=a", "be3 zone=b")],
        """
        pod cluster:80 -> be3 same
        outside nodeport:80 -> be3 masq
        """,
        [PLAIN, eps("be1 zone=a", "be3 zone=b")],
        "pod cluster:80 -> be1,be3 same",
        [PLAIN, eps("be1 zone=a", "be3 zone=b")],
        "pod cluster:80 -> be1,be3 same",
        site="the zone changes",
    ),
]
