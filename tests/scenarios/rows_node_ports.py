"""Which of the node's addresses node ports answer on."""

from tests.scenarios.table import eps, row, svc

EXPOSED = [svc("80", "nodeport external"), eps("be1", "be3")]
BY_UDP = [svc("53/UDP", "nodeport"), eps("be1", ports="53/UDP")]
LOCAL = [svc("80", "nodeport", externalTrafficPolicy="Local"), eps("be1", "be3")]

ROWS = [
    row(
        "nobody reaches from outside what listens on loopback, whatever makes it routable",
        EXPOSED,
        """
        outside 127.0.0.1:8088 -> DROPPED | v4
        outside UDP 127.0.0.1:8088 -> DROPPED | v4
        localhost localhost:8088 -> node same
        """,
    ),
    row(
        "every local address, by default",
        EXPOSED,
        """
        outside,pod,node,farpod nodeport,nodeport@alt:80 -> be1,be3 masq
        pod 10.244.0.1:30000 -> REFUSED | v4
        """,
    ),
    row(
        "node ports answer on localhost, in iptables mode and IPv4",
        EXPOSED,
        """
        localhost nodeport@localhost:80 -> be1,be3 masq | v4 iptables
        localhost nodeport@localhost:80 -> IGNORED | v4 ipvs nftables
        localhost nodeport@localhost:80 -> IGNORED | v6
        """,
    ),
    row(
        "and refuse there when nobody is there",
        [svc("80", "nodeport")],
        """
        localhost nodeport@localhost:80 -> REFUSED | v4 iptables
        localhost nodeport@localhost:80 -> IGNORED | v4 ipvs nftables
        localhost nodeport@localhost:80 -> IGNORED | v6
        """,
    ),
    row(
        "so they do by UDP",
        BY_UDP,
        """
        localhost UDP nodeport@localhost:53 -> be1 masq | v4 iptables
        localhost UDP nodeport@localhost:53 -> IGNORED | v4 ipvs nftables
        localhost UDP nodeport@localhost:53 -> IGNORED | v6
        """,
    ),
    row(
        "under policy Local localhost reaches everybody",
        LOCAL,
        """
        node nodeport,nodeport@alt:80 -> be1,be3 masq
        localhost nodeport@localhost:80 -> be1,be3 masq | v4 iptables
        """,
    ),
    row(
        "node ports on localhost can be switched off",
        EXPOSED,
        """
        localhost nodeport@localhost:80 -> IGNORED
        node,outside nodeport,nodeport@alt:80 -> be1,be3 masq
        """,
        site="no localhost node ports",
    ),
    row(
        "node ports on chosen addresses only",
        EXPOSED,
        """
        outside,pod,node nodeport@alt:80 -> be1,be3 masq
        outside,pod,node nodeport:80 -> IGNORED
        localhost nodeport@localhost:80 -> IGNORED
        outside external:80 -> be1,be3 masq
        """,
        site="node port CIDRs",
    ),
    row(
        "nor do others refuse when nobody is there",
        [svc("80", "nodeport")],
        """
        outside,node nodeport@alt:80 -> REFUSED
        outside,node nodeport:80 -> IGNORED
        """,
        site="node port CIDRs",
    ),
    row(
        "nor drop when nobody is here",
        [svc("80", "nodeport", externalTrafficPolicy="Local"), eps("be3")],
        """
        outside nodeport@alt:80 -> DROPPED
        outside nodeport:80 -> IGNORED
        """,
        site="node port CIDRs",
    ),
    row(
        "on networks that hold loopback, but not on localhost",
        EXPOSED,
        """
        outside nodeport,nodeport@alt:80 -> be1,be3 masq
        localhost nodeport@localhost:80 -> IGNORED
        """,
        site="node port CIDRs of everything",
    ),
    row(
        "a family that is not named is not restricted",
        EXPOSED,
        """
        outside nodeport@alt:80 -> be1,be3 masq
        outside nodeport:80 -> IGNORED | v4
        outside nodeport:80 -> be1,be3 masq | v6
        """,
        site="node port CIDRs of IPv4",
    ),
    row(
        "on the node's primary addresses only",
        EXPOSED,
        """
        outside,pod,node nodeport:80 -> be1,be3 masq
        outside,pod,node nodeport@alt:80 -> IGNORED
        localhost nodeport@localhost:80 -> IGNORED
        """,
        site="primary node ports",
    ),
    row(
        "on loopback only",
        EXPOSED,
        """
        outside,node nodeport,nodeport@alt:80 -> IGNORED
        localhost nodeport@localhost:80 -> be1,be3 masq | v4 iptables
        localhost nodeport@localhost:80 -> IGNORED | v4 ipvs nftables
        localhost nodeport@localhost:80 -> IGNORED | v6
        """,
        site="node ports on loopback",
    ),
]
