"""Labels that take a Service or a slice out of our hands, and what gives it back."""

from tests.scenarios.table import eps, row, svc

PROXY = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
OTHERS = {"labels": {PROXY: "somebody-else"}}

ROWS = [
    row(
        "somebody else's Service is not ours",
        [svc("80", "nodeport external", meta=OTHERS), eps("be1")],
        """
        pod,outside external,nodeport:80 -> IGNORED
        pod,node cluster:80 -> DROPPED
        """,
    ),
    row(
        "a Service is given away and taken back",
        [svc("80", "nodeport external"), eps("be1")],
        "outside external,nodeport:80 -> be1 masq",
        [svc("80", "nodeport external", meta=OTHERS), eps("be1")],
        """
        outside external,nodeport:80 -> IGNORED
        pod cluster:80 -> DROPPED
        """,
        [svc("80", "nodeport external"), eps("be1")],
        """
        outside external,nodeport:80 -> be1 masq
        pod cluster:80 -> be1 same
        """,
    ),
    row(
        "slices of the label headless do not count",
        [svc("80", "nodeport"), eps("be1", suffix="a"), eps("be3", suffix="b", **{HEADLESS: ""})],
        "pod cluster:80 -> be1 same",
        [svc("80", "nodeport"), eps("be1", suffix="a", **{HEADLESS: ""})],
        "pod,outside cluster,nodeport:80 -> REFUSED",
        [svc("80", "nodeport"), eps("be1", suffix="a")],
        "pod cluster:80 -> be1 same",
    ),
    row(
        "a Service without a cluster IP, and one of which it is None",
        [
            svc(clusterIPs=["None"], clusterIP="None"),
            eps("be1"),
            svc("80", "nodeport", name="pending", clusterIPs=[]),
            eps("be1", service="pending"),
        ],
        """
        pod cluster,pending/cluster:80 -> DROPPED
        outside pending/nodeport:80 -> IGNORED
        """,
    ),
    row(
        "ExternalName is left alone, even with addresses",
        [svc("80", "external", type="ExternalName", externalName="example.org"), eps("be1")],
        """
        pod cluster:80 -> DROPPED
        outside,pod external:80 -> IGNORED
        """,
    ),
    row(
        "a slice that names no Service, or another one",
        [
            svc("80", "nodeport"),
            eps("be1", suffix="a", **{"kubernetes.io/service-name": ""}),
            eps("be3", suffix="b", **{"kubernetes.io/service-name": "other"}),
        ],
        "pod,outside cluster,nodeport:80 -> REFUSED",
    ),
]
