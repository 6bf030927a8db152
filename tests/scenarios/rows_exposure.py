"""Ways in from outside: external IPs, load balancer addresses, node ports; and what changes about them."""

from tests.scenarios.table import eps, row, svc

WAYS = "nodeport external balancer"

ROWS = [
    row(
        "nobody there: every address refuses",
        [svc("80", WAYS)],
        """
        pod,be1,node,farpod,outside cluster,external,balancer,nodeport:80 -> REFUSED
        """,
    ),
    row(
        "nobody there, by UDP and SCTP",
        [svc("dns=53/UDP,dns-sctp=53/SCTP", WAYS)],
        """
        pod,node,outside UDP cluster,external,balancer,nodeport:53 -> REFUSED
        pod,outside SCTP cluster,external,balancer,nodeport:53 -> REFUSED
        """,
    ),
    row(
        "a slice without endpoints, and one of another port",
        [svc("80", WAYS), eps(suffix="a"), eps("be1", ports="other=80", suffix="b")],
        "pod,outside cluster,external,balancer,nodeport:80 -> REFUSED",
    ),
    row(
        "all unready",
        [svc("80", WAYS), eps("be1 unready", "be3 unready")],
        "pod,node,outside cluster,external,balancer,nodeport:80 -> REFUSED",
    ),
    row(
        "one ready among unready ones",
        [svc("80", WAYS), eps("be1 unready", "be2", "be3 unready")],
        """
        pod cluster:80 -> be2 same
        outside external,balancer,nodeport:80 -> be2 masq
        """,
    ),
    row(
        "every way in, from everywhere, masqueraded",
        [svc("80", WAYS), eps("be1", "be3", ports="80>8080")],
        """
        outside,altout,pod,be2,farpod,node external,balancer,nodeport:80 -> be1,be3 masq 8080
        outside,altout,pod,node nodeport@alt:80 -> be1,be3 masq 8080
        pod cluster:80 -> be1,be3 same 8080
        """,
    ),
    row(
        "node ports by UDP and SCTP",
        [svc("dns=53/UDP,dns-sctp=53/SCTP", WAYS), eps("be1", ports="dns=53/UDP,dns-sctp=53/SCTP")],
        """
        outside,pod,node UDP nodeport,nodeport@alt,external,balancer:53 -> be1 masq 53
        outside,pod SCTP nodeport,external,balancer:53 -> be1 masq 53
        """,
    ),
    row(
        "a node port is of one protocol",
        [svc("80", "nodeport"), eps("be1")],
        """
        outside nodeport:80 -> be1 masq
        outside UDP nodeport:80 -> IGNORED
        """,
    ),
    row(
        "one number by TCP and UDP, of which one goes",
        [svc("tcp=53/TCP,udp=53/UDP", "nodeport"), eps("be1", ports="tcp=53/TCP,udp=53/UDP")],
        """
        outside TCP nodeport:53 -> be1 masq
        outside UDP nodeport:53 -> be1 masq
        """,
        [svc("udp=53/UDP", "nodeport"), eps("be1", ports="tcp=53/TCP,udp=53/UDP")],
        """
        outside UDP nodeport:53 -> be1 masq
        outside TCP nodeport:53 -> IGNORED
        pod TCP cluster:53 -> REFUSED
        """,
        [svc("tcp=53/TCP", "nodeport"), eps("be1", ports="tcp=53/TCP,udp=53/UDP")],
        """
        outside TCP nodeport:53 -> be1 masq
        outside UDP nodeport:53 -> IGNORED
        """,
    ),
    row(
        "several external and load balancer addresses",
        [
            svc(
                "80",
                "nodeport balancer",
                externalIPs=["$external", "$external2", "$external3"],
                status={"loadBalancer": {"ingress": [{"ip": "$balancer"}, {"ip": "$balancer2"}]}},
            ),
            eps("be1"),
        ],
        "outside,pod external,external2,external3,balancer,balancer2:80 -> be1 masq",
    ),
    row(
        "an address that is external and the load balancer's",
        [svc("80", "balancer", externalIPs=["$balancer"]), eps("be1")],
        "outside,pod balancer:80 -> be1 masq",
    ),
    row(
        "an external IP that is the cluster IP as well",
        [svc("80", externalIPs=["$cluster"]), eps("be1")],
        """
        pod cluster:80 -> be1 same
        outside cluster:80 -> be1 masq
        """,
    ),
    row(
        "ipMode Proxy: the load balancer itself is asked, VIP: it is not",
        [
            svc(
                "80",
                "balancer",
                status={
                    "loadBalancer": {
                        "ingress": [
                            {"ip": "$balancer", "ipMode": "Proxy"},
                            {"ip": "$balancer2", "ipMode": "VIP"},
                            {"hostname": "lb.example"},
                        ]
                    }
                },
            ),
            eps("be1"),
        ],
        """
        pod,outside,node balancer:80 -> IGNORED
        pod,outside,node balancer2:80 -> be1 masq
        """,
    ),
    row(
        "ipMode Proxy, and nobody there",
        [svc("80", "balancer", status={"loadBalancer": {"ingress": [{"ip": "$balancer", "ipMode": "Proxy"}]}})],
        """
        pod,outside balancer:80 -> IGNORED
        pod cluster:80 -> REFUSED
        """,
    ),
    row(
        "a load balancer without node ports",
        [svc("80", "balancer", allocateLoadBalancerNodePorts=False), eps("be1")],
        "outside,pod balancer:80 -> be1 masq",
    ),
    row(
        "an external IP that is the node's own address",
        [svc("777", externalIPs=["$alt"]), eps("be1", ports="777>80")],
        "outside,pod,node alt:777 -> be1 masq 80",
    ),
    row(
        "external IPs switched off",
        [svc("80", WAYS), eps("be1")],
        """
        outside,pod external:80 -> IGNORED
        outside,pod balancer,nodeport:80 -> be1 masq
        """,
        site="no external IPs",
    ),
    row(
        "external IPs switched off take no load balancer's address along",
        [svc("80", "balancer", externalIPs=["$balancer"]), eps("be1")],
        "outside,pod balancer:80 -> be1 masq",
        site="no external IPs",
    ),
    row(
        "conversions: cluster IP, node port, load balancer, ExternalName, headless, and back",
        [svc(), eps("be1")],
        """
        pod cluster:80 -> be1 same
        outside nodeport:80 -> IGNORED
        """,
        [svc("80", WAYS), eps("be1")],
        """
        pod cluster:80 -> be1 same
        outside nodeport,external,balancer:80 -> be1 masq
        """,
        [svc(type="ExternalName", externalName="example.org"), eps("be1")],
        """
        pod cluster:80 -> DROPPED
        outside nodeport:80 -> IGNORED
        outside external,balancer:80 -> IGNORED
        """,
        [svc(clusterIPs=["None"]), eps("be1")],
        "pod cluster:80 -> DROPPED",
        [svc("80", "nodeport"), eps("be1")],
        """
        pod cluster:80 -> be1 same
        outside nodeport:80 -> be1 masq
        outside external:80 -> IGNORED
        """,
    ),
    row(
        "Services go up and down, and come again",
        [svc(), eps("be1"), svc(name="api"), eps("be3", service="api")],
        """
        pod cluster:80 -> be1 same
        pod api/cluster:80 -> be3 same
        """,
        [svc(), eps("be1")],
        """
        pod cluster:80 -> be1 same
        pod api/cluster:80 -> DROPPED
        """,
        [svc(), eps("be1"), svc(name="api"), eps("be2", service="api")],
        """
        pod cluster:80 -> be1 same
        pod api/cluster:80 -> be2 same
        """,
    ),
    row(
        "endpoints come and go",
        [svc("80", WAYS)],
        "pod,outside cluster,nodeport:80 -> REFUSED",
        [svc("80", WAYS), eps("be1")],
        """
        pod cluster:80 -> be1 same
        outside external,nodeport:80 -> be1 masq
        """,
        [svc("80", WAYS), eps("be2", "be3")],
        """
        pod cluster:80 -> be2,be3 same
        outside external,nodeport:80 -> be2,be3 masq
        """,
        [svc("80", WAYS), eps("be2 unready", "be3 unready")],
        "pod,outside cluster,external,balancer,nodeport:80 -> REFUSED",
        [svc("80", WAYS), eps("be2", "be3 unready")],
        "pod cluster:80 -> be2 same",
    ),
    row(
        "the ports of a Service change",
        [svc("80", WAYS), eps("be1", ports="80>80")],
        "pod cluster:80 -> be1 same 80",
        [svc("81", WAYS), eps("be1", ports="81>8080")],
        """
        pod cluster:81 -> be1 same 8080
        outside nodeport,external:81 -> be1 masq 8080
        pod cluster:80 -> REFUSED
        outside nodeport:80 -> IGNORED
        outside external:80 -> IGNORED | iptables nftables
        outside external:80 -> REFUSED | ipvs
        """,
    ),
    row(
        "a health-check node port lets its server be asked",
        [svc("80,https=443", WAYS, externalTrafficPolicy="Local", healthCheckNodePort="$health"), eps("be1")],
        "outside,node health:80 -> IGNORED",
    ),
]
