"""Traffic policies: who may be sent to other nodes, who keeps his address, and what becomes of the rest."""

from tests.scenarios.table import eps, row, svc

WAYS = "nodeport external balancer"
LOCAL = svc("80", WAYS, externalTrafficPolicy="Local")
INTERNAL = svc("80", WAYS, internalTrafficPolicy="Local")

ROWS = [
    row(
        "external Cluster: everybody everywhere, masqueraded",
        [svc("80", WAYS, externalTrafficPolicy="Cluster"), eps("be1", "be2", "be3")],
        "outside,pod,node,farpod external,balancer,nodeport,nodeport@alt:80 -> be1,be2,be3 masq",
    ),
    row(
        "external Local: outside reaches only who is here, with its own address",
        [LOCAL, eps("be1", "be2", "be3")],
        """
        outside,altout,blocked external,balancer,nodeport,nodeport@alt:80 -> be1,be2 same
        """,
    ),
    row(
        "external Local: this cluster's pods reach everybody, with their own address",
        [LOCAL, eps("be1", "be3")],
        """
        pod,be2,bridged external,balancer,nodeport:80 -> be1,be3 same
        be1 external,balancer,nodeport:80 -> be1,be3 any
        """,
    ),
    row("external Local: pods of other nodes too", [LOCAL, eps("be1")], "farpod external,nodeport:80 -> be1 same"),
    row(
        "external Local: the node itself reaches everybody, masqueraded",
        [LOCAL, eps("be1", "be3")],
        "node external,balancer,nodeport,nodeport@alt:80 -> be1,be3 masq",
    ),
    row(
        "external Local: a pod reaches itself",
        [LOCAL, eps("be1")],
        "be1 external,balancer,nodeport,cluster:80 -> be1 masq",
    ),
    row(
        "external Local leaves the cluster IP alone",
        [LOCAL, eps("be1", "be3")],
        """
        pod cluster:80 -> be1,be3 same
        node,outside cluster:80 -> be1,be3 masq
        """,
    ),
    row(
        "external Local by UDP and SCTP",
        [
            svc("udp=53/UDP,sctp=53/SCTP", WAYS, externalTrafficPolicy="Local"),
            eps("be1", "be3", ports="udp=53/UDP,sctp=53/SCTP"),
        ],
        """
        outside UDP external,balancer,nodeport:53 -> be1 same
        outside SCTP external,balancer,nodeport:53 -> be1 same
        pod UDP external,nodeport:53 -> be1,be3 same
        node UDP nodeport:53 -> be1,be3 masq
        """,
    ),
    row(
        "external Local with nobody here: outside is dropped, never sent elsewhere",
        [LOCAL, eps("be3", "be4")],
        """
        outside,blocked external,balancer,nodeport,nodeport@alt:80 -> DROPPED
        outside cluster:80 -> be3,be4 masq
        """,
    ),
    row(
        "external Local with nobody here: pods and the node go elsewhere",
        [LOCAL, eps("be3", "be4")],
        """
        pod,be1 external,balancer,nodeport:80 -> be3,be4 same
        node external,balancer,nodeport:80 -> be3,be4 masq
        pod cluster:80 -> be3,be4 same
        """,
    ),
    row(
        "external Local with nobody here, by UDP and SCTP",
        [
            svc("udp=53/UDP,sctp=53/SCTP", WAYS, externalTrafficPolicy="Local"),
            eps("be3", ports="udp=53/UDP,sctp=53/SCTP"),
        ],
        """
        outside UDP external,balancer,nodeport:53 -> DROPPED
        outside SCTP external,nodeport:53 -> DROPPED
        """,
    ),
    row(
        "external Local with nobody anywhere: refused",
        [LOCAL],
        "outside,pod,node external,balancer,nodeport,cluster:80 -> REFUSED",
    ),
    row(
        "external Local and an endpoint on the host's network",
        [LOCAL, eps("node", ports="80>8088")],
        """
        outside external,balancer,nodeport:80 -> node same 8088
        pod external,nodeport:80 -> node same 8088
        """,
    ),
    row(
        "external Local counts for nothing where nothing is exposed",
        [svc(externalTrafficPolicy="Local"), eps("be3")],
        "pod cluster:80 -> be3 same",
    ),
    row(
        "external Local of a plain Service with external IPs",
        [svc("80", "external", externalTrafficPolicy="Local"), eps("be1", "be3")],
        """
        outside external:80 -> be1 same
        pod external:80 -> be1,be3 same
        """,
    ),
    row(
        "external Local, an endpoint of which nobody knows the node, is not here",
        [LOCAL, eps("be1 on=", "be2")],
        """
        outside external,nodeport:80 -> be2 same
        pod external:80 -> be1,be2 same
        """,
    ),
    row(
        "external policy from Local to Cluster and back",
        [LOCAL, eps("be1", "be3")],
        "outside external,nodeport:80 -> be1 same",
        [svc("80", WAYS), eps("be1", "be3")],
        "outside external,nodeport:80 -> be1,be3 masq",
        [LOCAL, eps("be1", "be3")],
        """
        outside external,nodeport:80 -> be1 same
        pod nodeport:80 -> be1,be3 same
        """,
        [LOCAL, eps("be3")],
        "outside external,nodeport:80 -> DROPPED",
        [LOCAL, eps("be2", "be3")],
        "outside external,nodeport:80 -> be2 same",
    ),
    row(
        "internal Cluster: everybody",
        [svc(internalTrafficPolicy="Cluster"), eps("be1", "be2", "be3")],
        "pod cluster:80 -> be1,be2,be3 same",
    ),
    row(
        "internal Local: only who is here, whoever asks",
        [INTERNAL, eps("be1", "be2", "be3")],
        """
        pod,be2,bridged cluster:80 -> be1,be2 any
        pod cluster:80 -> be1,be2 same
        node,outside cluster:80 -> be1,be2 masq
        """,
    ),
    row(
        "internal Local, one here",
        [svc(internalTrafficPolicy="Local"), eps("be1", "be3", "be4")],
        """
        pod,be2 cluster:80 -> be1 same
        be1 cluster:80 -> be1 masq
        """,
    ),
    row(
        "internal Local leaves node ports and other addresses alone",
        [INTERNAL, eps("be1", "be3")],
        "outside,pod,node external,balancer,nodeport:80 -> be1,be3 masq",
    ),
    row(
        "internal Local with nobody here: dropped; with nobody anywhere: refused",
        [INTERNAL, eps("be3")],
        """
        pod,node,outside cluster:80 -> DROPPED
        outside external,nodeport:80 -> be3 masq
        """,
        [INTERNAL],
        "pod,node,outside cluster,external,nodeport:80 -> REFUSED",
        [INTERNAL, eps("be1", "be3")],
        "pod cluster:80 -> be1 same",
    ),
    row(
        "internal Local with nobody here, nothing exposed",
        [
            svc("tcp=80,udp=53/UDP,sctp=53/SCTP", internalTrafficPolicy="Local"),
            eps("be3", ports="tcp=80,udp=53/UDP,sctp=53/SCTP"),
        ],
        """
        pod,node cluster:80 -> DROPPED
        pod,node UDP cluster:53 -> DROPPED
        pod SCTP cluster:53 -> DROPPED
        pod cluster:81 -> REFUSED
        """,
    ),
    row(
        "internal Local and endpoints on the host's network, here and elsewhere",
        [svc(internalTrafficPolicy="Local"), eps("node", ports="80>8088"), eps("be3", suffix="b")],
        """
        pod cluster:80 -> node same 8088
        node cluster:80 -> node any 8088
        """,
    ),
    row(
        "both policies Local",
        [svc("80", WAYS, internalTrafficPolicy="Local", externalTrafficPolicy="Local"), eps("be1", "be3")],
        """
        pod cluster:80 -> be1 same
        outside external,balancer,nodeport:80 -> be1 same
        pod external,balancer,nodeport:80 -> be1,be3 same
        node external,nodeport:80 -> be1,be3 masq
        """,
    ),
    row(
        "both policies Local with nobody here",
        [svc("80", WAYS, internalTrafficPolicy="Local", externalTrafficPolicy="Local"), eps("be3")],
        """
        pod,node cluster:80 -> DROPPED
        outside external,balancer,nodeport:80 -> DROPPED
        pod external,nodeport:80 -> be3 same
        node external,nodeport:80 -> be3 masq
        """,
    ),
]
