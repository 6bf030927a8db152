"""Many endpoints, ports, ranges and long names: what is large is served whole, and harms nobody beside it."""

from tests.scenarios.addresses import MORE_PORTS
from tests.scenarios.table import Json, eps, row, svc

MANY = ",".join(f"{who}:{port}" for who in ("be1", "be2", "be3", "be4") for port in MORE_PORTS)
LONG = ".".join(["long" * 15] * 4)[:253].rstrip(".")


def crowd(count: int) -> list[Json]:
    """A Service's slices with so many endpoints, a hundred each."""
    return [
        eps(*(f"$crowd{n} on=node2" for n in range(i, min(i + 100, count))), suffix=str(i))
        for i in range(0, count, 100)
    ]


ROWS = [
    row(
        "a hundred and twenty endpoints all get requests",
        [
            svc("80", "nodeport"),
            *(eps("be1", "be2", "be3", "be4", ports=f"80>{port}", suffix=str(port)) for port in MORE_PORTS),
        ],
        f"""
        pod cluster:80 -> {MANY} same
        """,
    ),
    row(
        "a client stays with one of a hundred and twenty",
        [
            svc("80", "nodeport", sessionAffinity="ClientIP"),
            *(eps("be1", "be2", "be3", "be4", ports=f"80>{port}", suffix=str(port)) for port in MORE_PORTS),
        ],
        f"""
        pod,be1 cluster:80 -> sticky {MANY} any
        outside nodeport:80 -> sticky {MANY} masq
        """,
    ),
    row(
        "three hundred ports",
        [
            svc(",".join(f"p{n}={n}" for n in range(1000, 1300))),
            eps("be1", ports=",".join(f"p{n}={n}>{80 if n % 2 else 8080}" for n in range(1000, 1300))),
        ],
        """
        pod cluster:1000 -> be1 same 8080
        pod cluster:1151 -> be1 same 80
        pod cluster:1299 -> be1 same 80
        pod cluster:999 -> REFUSED
        pod cluster:1300 -> REFUSED
        """,
    ),
    row(
        "five thousand source ranges",
        [
            svc(
                "80",
                "balancer",
                loadBalancerSourceRanges=[
                    *(f"172.{16 + i // 250}.{i % 250}.0/24" for i in range(2500)),
                    *(f"fd99:{i:x}::/64" for i in range(2500)),
                    "$outside/host",
                ],
            ),
            eps("be1"),
        ],
        """
        outside balancer:80 -> be1 masq
        blocked,node,pod balancer:80 -> DROPPED
        pod cluster:80 -> be1 same
        """,
        site="crowds",
    ),
    row(
        "ten thousand endpoints of one Service, and a Service beside it",
        [svc("80", "nodeport external"), *crowd(10_000), svc(name="api"), eps("be1", service="api")],
        """
        pod cluster:80 -> crowd same
        outside nodeport,external:80 -> crowd masq
        pod api/cluster:80 -> be1 same
        """,
        [svc("80", "nodeport external"), *crowd(9_999), svc(name="api"), eps("be1", "be2", service="api")],
        """
        pod cluster:80 -> crowd same
        pod api/cluster:80 -> be1,be2 same
        """,
        site="crowds",
    ),
    row(
        "a name as long as a name may be",
        [svc(name=LONG), svc(), eps("be1")],
        f"""
        pod {LONG}/cluster:80 -> REFUSED
        pod cluster:80 -> be1 same
        """,
    ),
]
