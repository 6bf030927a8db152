"""What no API server should have let in: each is served as far as it makes sense, and harms nobody else."""

from tests.scenarios.table import Json, eps, row, svc

WAYS = "nodeport external balancer"


def raw_slice(*addresses: str, service: str = "web", ports: object = None, **fields: object) -> Json:
    """A slice as somebody wrote it."""
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": f"{service}-raw", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}] if ports is None else ports,
        "endpoints": [{"addresses": [each], "nodeName": "node1"} for each in addresses],
        **fields,
    }


ROWS = [
    row(
        "addresses with leading zeros are what they look like",
        [
            svc("80", clusterIPs=["10.96.200.041"], externalIPs=["198.018.200.041"], families="v4")
            | {"status": {"loadBalancer": {"ingress": [{"ip": "198.019.200.041"}]}}},
            raw_slice("10.244.000.011"),
        ],
        """
        pod 10.96.200.41:80 -> be1 same | v4
        outside 198.18.200.41:80 -> be1 masq | v4
        outside 198.19.200.41:80 -> be1 masq | v4
        pod cluster:80 -> DROPPED | v6
        """,
    ),
    row(
        "so are source ranges, and addresses mapped into IPv6",
        [
            svc(
                "80",
                "balancer",
                families="v4",
                loadBalancerSourceRanges=["192.168.056.200/32"],
                externalIPs=["::ffff:198.18.200.42"],
            ),
            raw_slice("10.244.0.11"),
        ],
        """
        outside balancer:80 -> be1 masq | v4
        blocked balancer:80 -> DROPPED | v4
        outside 198.18.200.42:80 -> be1 masq | v4
        pod cluster:80 -> DROPPED | v6
        """,
    ),
    row(
        "nonsense among good addresses",
        [
            svc(
                "80",
                "balancer",
                externalIPs=[
                    "$external",
                    "no address",
                    "",
                    "300.1.1.1",
                    "127.0.0.1",
                    "0.0.0.0",
                    "224.0.0.1",
                    "fe80::1",
                ],
            ),
            eps("be1", "no-address", "127.0.0.1", "0.0.0.0", "::1", "224.0.0.1", "169.254.1.1"),
        ],
        """
        outside external,balancer:80 -> be1 masq
        pod cluster:80 -> be1 same
        localhost localhost:80 -> REFUSED
        """,
    ),
    row(
        "an endpoint at loopback is left out, so nobody is there",
        [svc("80"), eps("localhost", ports="80>8088")],
        "pod,node,outside cluster:80 -> REFUSED",
    ),
    row(
        "an endpoint that is the Service's own address is nobody",
        [svc("80", "external"), eps("$cluster", "$external", "be1")],
        """
        pod cluster:80 -> be1 same
        outside external:80 -> be1 masq
        """,
        [svc("80", "external"), eps("$cluster")],
        "pod,outside cluster,external:80 -> REFUSED",
    ),
    row(
        "ports of slices without name or number, and impossible ones",
        [
            svc("80"),
            raw_slice(
                "10.244.0.11",
                ports=[
                    {"port": 8080, "protocol": "TCP"},
                    {"name": "", "protocol": "TCP"},
                    {"name": "", "port": 0, "protocol": "TCP"},
                    {"name": "", "port": 65536, "protocol": "TCP"},
                    {"name": "", "port": -1, "protocol": "TCP"},
                    {"name": "", "port": 80, "protocol": "QUIC"},
                    {"name": "", "port": 53},
                ],
            ),
        ],
        """
        pod cluster:80 -> be1 same 53 | v4
        pod cluster:80 -> REFUSED | v6
        """,
    ),
    row(
        "impossible ports of Services among good ones",
        [
            svc(
                ports=[
                    {"name": "none", "port": 0},
                    {"name": "much", "port": 65536},
                    {"name": "UPPER CASE; no name", "port": 81},
                    {"name": "what", "port": 82, "protocol": "QUIC"},
                    {"name": "ok", "port": 80, "nodePort": 99999},
                ],
            ),
            eps("be1", ports="ok=80"),
        ],
        """
        pod cluster:80 -> be1 same
        pod cluster:81 -> REFUSED
        """,
    ),
    row(
        "two ports of one name: the first counts",
        [
            svc(ports=[{"name": "a", "port": 80}, {"name": "a", "port": 81}]),
            eps("be1", ports="a=80"),
        ],
        """
        pod cluster:80 -> be1 same
        pod cluster:81 -> REFUSED
        """,
    ),
    row(
        "only an endpoint's first address counts",
        [
            svc("80"),
            raw_slice(endpoints=[{"addresses": ["10.244.0.11", "10.244.0.12"]}, {"addresses": []}, {}]),
        ],
        """
        pod cluster:80 -> be1 same | v4
        pod cluster:80 -> REFUSED | v6
        """,
    ),
    row(
        "addresses of the other family in a slice, and a slice of names",
        [
            svc("80"),
            raw_slice("fd00:10:244::11", "10.244.0.11"),
            raw_slice("be1.example.org")
            | {
                "metadata": {"name": "fqdn", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "FQDN",
            },
        ],
        """
        pod cluster:80 -> be1 same | v4
        pod cluster:80 -> REFUSED | v6
        """,
    ),
    row(
        "an external IP that is another Service's cluster IP takes nothing from it",
        [
            svc(name="a", externalIPs=["$cluster:web"], meta={"creationTimestamp": "2020-01-01T00:00:00Z"}),
            eps("be3", service="a"),
            svc(meta={"creationTimestamp": "2021-01-01T00:00:00Z"}),
            eps("be1"),
        ],
        """
        pod,outside cluster:80 -> be1 any
        pod a/cluster:80 -> be3 same
        """,
        [svc(name="a", externalIPs=["$cluster:web"]), eps("be3", service="a")],
        "outside,pod cluster:80 -> be3 masq",
        [svc(name="a", externalIPs=["$cluster:web"]), eps("be3", service="a"), svc(), eps("be1")],
        "pod cluster:80 -> be1 same",
    ),
    row(
        "an external IP that two claim is the older one's, and then the other's",
        [
            svc(name="young", externalIPs=["$external:old"], meta={"creationTimestamp": "2022-01-01T00:00:00Z"}),
            eps("be3", service="young"),
            svc(name="old", externalIPs=["$external"], meta={"creationTimestamp": "2021-01-01T00:00:00Z"}),
            eps("be1", service="old"),
        ],
        """
        outside,pod old/external:80 -> be1 masq
        pod young/cluster:80 -> be3 same
        """,
        [
            svc(name="young", externalIPs=["$external:old"], meta={"creationTimestamp": "2022-01-01T00:00:00Z"}),
            eps("be3", service="young"),
        ],
        "outside,pod old/external:80 -> be3 masq",
    ),
    row(
        "a cluster IP that two claim is the older one's",
        [
            svc(name="young", clusterIPs=["$cluster:old"], meta={"creationTimestamp": "2022-01-01T00:00:00Z"}),
            eps("be3", service="young"),
            svc(name="old", meta={"creationTimestamp": "2021-01-01T00:00:00Z"}),
            eps("be1", service="old"),
        ],
        "pod old/cluster:80 -> be1 same",
    ),
    row(
        "they may share it if their ports differ",
        [
            svc("80", name="a", externalIPs=["$external"]),
            eps("be1", service="a"),
            svc("81", name="b", externalIPs=["$external:a"]),
            eps("be3", service="b", ports="81>80"),
            svc("80/UDP", name="c", externalIPs=["$external:a"]),
            eps("be2", service="c", ports="80/UDP"),
        ],
        """
        outside a/external:80 -> be1 masq
        outside a/external:81 -> be3 masq
        outside UDP a/external:80 -> be2 masq
        """,
    ),
    row(
        "a node port that two claim is the older one's",
        [
            svc(
                name="young",
                type="NodePort",
                ports=[{"port": 80, "nodePort": 32100}],
                meta={"creationTimestamp": "2022-01-01T00:00:00Z"},
            ),
            eps("be3", service="young"),
            svc(
                name="old",
                type="NodePort",
                ports=[{"port": 80, "nodePort": 32100}],
                meta={"creationTimestamp": "2021-01-01T00:00:00Z"},
            ),
            eps("be1", service="old"),
        ],
        """
        pod old/cluster:80 -> be1 same
        pod young/cluster:80 -> be3 same
        """,
    ),
    row(
        "the longest names",
        [svc("80", name="w" * 63), eps("be1", service="w" * 63, suffix="s" * 100)],
        f"pod {'w' * 63}/cluster:80 -> be1 same",
    ),
    row(
        "a name that is none: that Service is not served, its neighbours are",
        [svc("80", name='web"; -j ACCEPT'), svc("80"), eps("be1")],
        "pod cluster:80 -> be1 same",
    ),
    row(
        "no ports, no spec, no endpoints",
        [
            svc(name="a", ports=[]),
            {"kind": "Service", "metadata": {"name": "b"}},
            {"kind": "EndpointSlice", "metadata": {"name": "c"}},
            {
                "kind": "EndpointSlice",
                "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4",
                "ports": None,
                "endpoints": None,
            },
            svc("80"),
            eps("be1"),
        ],
        """
        pod cluster:80 -> be1 same
        pod a/cluster:80 -> DROPPED
        """,
    ),
    row(
        "an affinity that lasts for ever is one of three hours",
        [
            svc("80", sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 10**9}}),
            eps("be1", "be2"),
        ],
        "pod cluster:80 -> sticky be1,be2 same",
    ),
    row(
        "policies that do not exist are Cluster",
        [svc("80", WAYS, internalTrafficPolicy="Nearby", externalTrafficPolicy=""), eps("be1", "be3")],
        """
        pod cluster:80 -> be1,be3 same
        outside nodeport:80 -> be1,be3 masq
        """,
    ),
]
