"""Cluster IPs: who answers, on which port, by which protocol; what is refused, dropped, or not our business."""

from tests.scenarios.table import eps, row, svc

DNS = "dns-tcp=53>5353/TCP,dns=53/UDP,dns-sctp=53/SCTP"
EVERY_PORT = ",".join(f"{who}:{port}" for who in ("be1", "be2", "be3", "be4") for port in (80, 8080, 53, 5353))

ROWS = [
    row(
        "simple cluster IP",
        [svc(), eps("be3"), svc(name="api"), eps("be1", service="api")],
        """
        pod,be1,bridged cluster:80 -> be3 same 80
        pod,be2,farpod api/cluster:80 -> be1 same 80
        """,
    ),
    row(
        "a pod reaches itself through its own Service, masqueraded",
        [svc(), eps("be1")],
        """
        be1 cluster:80 -> be1 masq
        be2 cluster:80 -> be1 same
        """,
    ),
    row(
        "so it does by UDP and SCTP",
        [svc("dns=53/UDP,dns-sctp=53/SCTP"), eps("be1", ports="dns=53>5353/UDP,dns-sctp=53/SCTP")],
        """
        be1 UDP cluster:53 -> be1 masq 5353
        be1 SCTP cluster:53 -> be1 masq 53
        """,
    ),
    row(
        "so it does when no slice says on which node it runs",
        [svc(), eps("be1 on=")],
        """
        be1 cluster:80 -> be1 masq
        be1 be1:80 -> be1 same
        """,
    ),
    row(
        "so it does as one of several",
        [svc(ways="nodeport external"), eps("be1", "be2")],
        """
        be1 cluster,external,nodeport:80 -> be1,be2 any
        """,
    ),
    row(
        "several endpoints all get requests",
        [svc(), eps("be1", "be2", "be3")],
        "pod cluster:80 -> be1,be2,be3 same",
    ),
    row(
        "sixteen endpoints all get requests",
        [
            svc(),
            *(
                eps("be1", "be2", "be3", "be4", ports=f"80>{port}", suffix=str(port))
                for port in (80, 8080, 53, 5353)
            ),
        ],
        f"pod cluster:80 -> {EVERY_PORT} same",
    ),
    row(
        "the target port differs, in two slices even",
        [svc("443"), eps("be1", ports="443>8080", suffix="a"), eps("be3", ports="443>80", suffix="b")],
        "pod,be2 cluster:443 -> be1:8080,be3:80 same",
    ),
    row(
        "named ports, each with other numbers in each slice",
        [
            svc("http=80,admin=81"),
            eps("be1", ports="http=80>8080,admin=81>80", suffix="a"),
            eps("be2", "be3", ports="http=80>80,admin=81>5353", suffix="b"),
        ],
        """
        pod cluster:80 -> be1:8080,be2:80,be3:80 same
        pod cluster:81 -> be1:80,be2:5353,be3:5353 same
        """,
    ),
    row(
        "a port that only some slices have",
        [
            svc("http=80,admin=81"),
            eps("be1", ports="http=80,admin=81>8080", suffix="a"),
            eps("be2", ports="http=80", suffix="b"),
        ],
        """
        pod cluster:80 -> be1,be2 same 80
        pod cluster:81 -> be1 same 8080
        """,
    ),
    row(
        "several slices of several endpoints and ports",
        [
            svc("a=80,b=81,c=82"),
            eps("be1", "be3", ports="a=80,b=81>8080,c=82>53", suffix="x"),
            eps("be2", "be4", ports="a=80,b=81>8080,c=82>53", suffix="y"),
        ],
        """
        pod cluster:80 -> be1,be2,be3,be4 same 80
        pod cluster:81 -> be1,be2,be3,be4 same 8080
        pod cluster:82 -> be1,be2,be3,be4 same 53
        """,
    ),
    row(
        "an endpoint in two slices is one",
        [svc(), eps("be1", "be2", suffix="a"), eps("be2", "be1", suffix="b")],
        "pod cluster:80 -> be1,be2 same",
    ),
    row(
        "of an endpoint's two entries the one that is not terminating counts",
        [
            svc(),
            eps("be1 gone", "be2", suffix="a"),
            eps("be1", "be2 gone", suffix="b"),
            svc(name="api"),
            eps("be1", service="api", suffix="a"),
            eps("be1 gone", service="api", suffix="b"),
        ],
        """
        pod cluster:80 -> be1,be2 same
        pod api/cluster:80 -> be1 same
        """,
    ),
    row(
        "TCP, UDP and SCTP share a port",
        [svc(DNS), eps("be1", ports=DNS)],
        """
        pod,be2 TCP cluster:53 -> be1 same 5353
        pod,be2 UDP cluster:53 -> be1 same 53
        pod,be2 SCTP cluster:53 -> be1 same 53
        """,
    ),
    row(
        "they need not have the same endpoints",
        [
            svc("dns-tcp=53/TCP,dns=53/UDP,dns-sctp=53/SCTP"),
            eps("be1", ports="dns-tcp=53/TCP", suffix="a"),
            eps("be3", ports="dns=53/UDP", suffix="b"),
        ],
        """
        pod TCP cluster:53 -> be1 same
        pod UDP cluster:53 -> be3 same
        pod SCTP cluster:53 -> REFUSED
        """,
    ),
    row(
        "of one cluster IP's ports each has its own endpoints, of another's none",
        [svc("80"), eps("be1"), svc("443", name="api"), eps("be3", ports="443>80", service="api")],
        """
        pod cluster:80 -> be1 same
        pod api/cluster:443 -> be3 same
        pod cluster:443 -> REFUSED
        pod api/cluster:80 -> REFUSED
        """,
    ),
    row(
        "a cluster IP refuses a port that it has not, by any protocol",
        [svc("80"), eps("be1", "be3")],
        """
        pod,node,outside,farpod,bridged cluster:81 -> REFUSED
        pod,node,outside UDP cluster:81 -> REFUSED
        pod,outside SCTP cluster:81 -> REFUSED
        pod,node,outside UDP cluster:80 -> REFUSED
        pod SCTP cluster:80 -> REFUSED
        """,
    ),
    row(
        "other addresses of a Service do not refuse what they have not, but where IPVS makes them the node's own",
        [svc("80", "external balancer"), eps("be1")],
        """
        pod,outside,node external,balancer:81 -> IGNORED | iptables nftables
        pod UDP external,balancer:80 -> IGNORED | iptables nftables
        pod,outside,node external,balancer:81 -> REFUSED | ipvs
        pod UDP external,balancer:80 -> REFUSED | ipvs
        """,
    ),
    row(
        "a cluster IP that nobody has leads nowhere",
        [svc(), eps("be1")],
        """
        pod,node,outside,farpod unallocated:80 -> DROPPED
        pod,node UDP unallocated:80 -> DROPPED
        pod SCTP unallocated:80 -> DROPPED
        """,
    ),
    row(
        "without a ServiceCIDR nobody knows which addresses are cluster IPs",
        [svc(), eps("be1")],
        """
        pod cluster:80 -> be1 same
        pod cluster:81 -> REFUSED
        pod,node,outside unallocated:80 -> IGNORED
        """,
        site="no ServiceCIDR",
    ),
    row(
        "a ServiceCIDR that holds the node itself cuts nobody off",
        [svc(), eps("be1")],
        """
        pod cluster:80 -> be1 same
        pod,node,outside unallocated:80 -> IGNORED
        """,
        site="a ServiceCIDR of everything",
    ),
    row(
        "ServiceCIDRs come one after the other",
        [svc(), eps("be1")],
        "pod unallocated:80 -> IGNORED",
        [svc(), eps("be1")],
        "pod,node unallocated:80 -> DROPPED",
        [svc(), eps("be1")],
        """
        pod unallocated:80 -> DROPPED
        pod 203.0.113.9:80 -> DROPPED | v4
        pod fd00:20:96::9:80 -> DROPPED | v6
        pod cluster:80 -> be1 same
        """,
        site="ServiceCIDRs come",
    ),
    row(
        "a Service of a second ServiceCIDR",
        [svc("80", "nodeport", clusterIPs=["203.0.113.77", "fd00:20:96::77"]), eps("be1")],
        """
        pod 203.0.113.77:80 -> be1 same | v4
        pod fd00:20:96::77:80 -> be1 same | v6
        outside nodeport:80 -> be1 masq
        """,
    ),
    row(
        "an endpoint on the host's network is the node itself",
        [svc("80", "nodeport"), eps("node", ports="80>8088")],
        """
        pod cluster:80 -> node same 8088
        node cluster:80 -> node any 8088
        node node:8088 -> node same
        outside nodeport:80 -> node any 8088
        """,
    ),
    row(
        "one family alone",
        [
            svc(name="four", families="v4"),
            eps("be1", service="four"),
            svc(name="six", families="v6"),
            eps("be3", service="six"),
        ],
        """
        pod four/cluster:80 -> be1 same | v4
        pod four/cluster:80 -> DROPPED | v6
        pod six/cluster:80 -> be3 same | v6
        pod six/cluster:80 -> DROPPED | v4
        """,
    ),
    row(
        "the families of one Service have their own endpoints",
        [
            svc("80", "nodeport"),
            eps("be1")
            | {"addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.11"], "nodeName": "node1"}]},
        ],
        """
        pod cluster:80 -> be1 same | v4
        outside nodeport:80 -> be1 masq | v4
        pod,node cluster:80 -> REFUSED | v6
        outside nodeport:80 -> REFUSED | v6
        """,
    ),
]
