"""Endpoints that are leaving: used while they serve, when nobody ready is left, each policy for itself."""

from tests.scenarios.table import eps, row, svc

WAYS = "nodeport external balancer"
PLAIN = svc("80", WAYS)
LOCAL = svc("80", WAYS, externalTrafficPolicy="Local")
INTERNAL = svc("80", WAYS, internalTrafficPolicy="Local")

ROWS = [
    row(
        "somebody ready: who terminates gets nothing new",
        [PLAIN, eps("be1", "be2 terminating", "be3 terminating")],
        """
        pod cluster:80 -> be1 same
        outside external,balancer,nodeport:80 -> be1 masq
        """,
    ),
    row(
        "nobody ready: all who serve while they terminate, here and elsewhere",
        [PLAIN, eps("be1 terminating", "be2 unready", "be3 terminating", "be4 gone")],
        """
        pod cluster:80 -> be1,be3 same
        outside external,balancer,nodeport:80 -> be1,be3 masq
        """,
    ),
    row(
        "who terminates without serving is never used",
        [PLAIN, eps("be1 gone", "be3 gone", "be2 unready")],
        "pod,node,outside cluster,external,balancer,nodeport:80 -> REFUSED",
    ),
    row(
        "external Local: ready here, so who terminates here gets nothing",
        [LOCAL, eps("be1", "be2 terminating", "be3")],
        """
        outside external,balancer,nodeport:80 -> be1 same
        pod cluster:80 -> be1,be3 same
        """,
    ),
    row(
        "external Local: only terminating ones here: they, while the cluster IP uses the ready one elsewhere",
        [LOCAL, eps("be1 terminating", "be2 terminating", "be3")],
        """
        outside external,balancer,nodeport:80 -> be1,be2 same
        pod cluster:80 -> be3 same
        pod,node external,nodeport:80 -> be3 any
        """,
    ),
    row(
        "external Local: terminating ones here and elsewhere, none ready",
        [LOCAL, eps("be1 terminating", "be3 terminating", "be2 gone")],
        """
        outside external,balancer,nodeport:80 -> be1 same
        pod cluster,external,nodeport:80 -> be1,be3 same
        node nodeport:80 -> be1,be3 masq
        """,
    ),
    row(
        "external Local: terminating elsewhere only",
        [LOCAL, eps("be3 terminating", "be1 gone")],
        """
        outside external,balancer,nodeport:80 -> DROPPED
        pod cluster,external,nodeport:80 -> be3 same
        """,
    ),
    row(
        "external Local: nobody serves",
        [LOCAL, eps("be1 gone", "be3 gone")],
        "pod,node,outside cluster,external,balancer,nodeport:80 -> REFUSED",
    ),
    row(
        "internal Local: ready here",
        [INTERNAL, eps("be1", "be2 terminating", "be3")],
        """
        pod cluster:80 -> be1 same
        outside external,nodeport:80 -> be1,be3 masq
        """,
    ),
    row(
        "internal Local: only terminating ones here",
        [INTERNAL, eps("be1 terminating", "be3")],
        """
        pod,node cluster:80 -> be1 any
        outside external,nodeport:80 -> be3 masq
        """,
    ),
    row(
        "internal Local: terminating elsewhere only",
        [INTERNAL, eps("be3 terminating")],
        """
        pod cluster:80 -> DROPPED
        outside external,nodeport:80 -> be3 masq
        """,
    ),
    row(
        "internal Local without exposure: terminating elsewhere only",
        [svc(internalTrafficPolicy="Local"), eps("be3 terminating")],
        "pod,node cluster:80 -> DROPPED",
    ),
    row(
        "publishNotReadyAddresses: ready although it terminates, so it counts as ready",
        [PLAIN, eps("be1 leaving", "be3")],
        """
        pod cluster:80 -> be1,be3 same
        outside nodeport:80 -> be1,be3 masq
        """,
        [PLAIN, eps("be1 gone", "be3 unready")],
        "pod,outside cluster,nodeport:80 -> REFUSED",
        [LOCAL, eps("be1 leaving", "be2", "be3 terminating")],
        "outside nodeport:80 -> be1,be2 same",
    ),
    row(
        "a rolling end: ready, terminating, gone",
        [LOCAL, eps("be1", "be3")],
        "outside external:80 -> be1 same",
        [LOCAL, eps("be1 terminating", "be3")],
        """
        outside external:80 -> be1 same
        pod cluster:80 -> be3 same
        """,
        [LOCAL, eps("be1 gone", "be3")],
        """
        outside external:80 -> DROPPED
        pod cluster:80 -> be3 same
        """,
        [LOCAL, eps("be2", "be3 terminating")],
        """
        outside external:80 -> be2 same
        pod cluster:80 -> be2 same
        """,
    ),
]
