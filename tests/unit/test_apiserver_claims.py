"""Node ports belong to one Service at a time, through every change of type; nobody releases what is not theirs."""

import pytest

from tests.apiserver_bed import MERGE, SERVICES, api_bed, claimed, service, shown

pytestmark = pytest.mark.unit


async def changed(bed, name, **spec):
    code, obj = await bed.call("PATCH", f"{SERVICES}/{name}", {"spec": spec}, Content_Type=MERGE)
    assert code == 200, obj
    return obj


async def test_a_node_port_on_an_external_name_holds_nothing_and_releases_nothing():
    async with api_bed() as bed:
        await bed.made(SERVICES, service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
        ports = [{"port": 80, "nodePort": 30080}]
        await bed.made(SERVICES, service("e", type="ExternalName", externalName="a.example.com", ports=ports))
        await bed.call("DELETE", f"{SERVICES}/e")
        assert (await claimed(bed))["TCP-30080"] == "a"


async def test_a_named_port_of_a_load_balancer_without_node_ports_is_its_own():
    async with api_bed() as bed:
        await bed.made(SERVICES, service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
        ports = [{"name": "x", "port": 80}, {"name": "y", "port": 81, "nodePort": 30081}]
        balanced = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}
        made = await bed.made(SERVICES, service("lb", **balanced, ports=ports))
        assert [port.get("nodePort") for port in made["spec"]["ports"]] == [None, 30081]
        assert (await claimed(bed))["TCP-30081"] == "lb"
        ports[1]["nodePort"] = 30080
        assert "provided port is already allocated" in await bed.refused(
            SERVICES, service("lb2", **balanced, ports=ports)
        )


async def test_switching_allocation_off_keeps_the_ports_that_are_there():
    async with api_bed() as bed:
        made = await bed.made(SERVICES, service("lb", type="LoadBalancer"))
        number = made["spec"]["ports"][0]["nodePort"]
        after = await changed(bed, "lb", allocateLoadBalancerNodePorts=False)
        assert after["spec"]["ports"][0]["nodePort"] == number
        await changed(bed, "lb", ports=[{"port": 80}])
        assert f"TCP-{number}" not in await claimed(bed)


async def test_picks_stay_out_of_the_way_of_what_is_named():
    ports = [{"name": "a", "port": 1}, {"name": "b", "port": 2, "nodePort": 30001}]
    async with api_bed(ports="30000-30001") as bed:
        made = await bed.made(SERVICES, service("a", type="NodePort", ports=ports))
        assert [port["nodePort"] for port in made["spec"]["ports"]] == [30000, 30001]


async def test_a_taken_twin_gets_another_number():
    async with api_bed() as bed:
        udp = [{"port": 53, "protocol": "UDP", "nodePort": 30053}]
        await bed.made(SERVICES, service("a", type="NodePort", ports=udp))
        ports = [{"name": "t", "port": 53, "nodePort": 30053}, {"name": "u", "port": 53, "protocol": "UDP"}]
        made = await bed.made(SERVICES, service("b", type="NodePort", ports=ports))
        assert made["spec"]["ports"][0]["nodePort"] == 30053
        assert made["spec"]["ports"][1]["nodePort"] != 30053


async def test_the_health_check_port_is_no_node_port_of_the_same_service():
    async with api_bed() as bed:
        told = await bed.refused(
            SERVICES,
            service(
                "lb",
                type="LoadBalancer",
                externalTrafficPolicy="Local",
                healthCheckNodePort=30100,
                ports=[{"port": 80, "nodePort": 30100}],
            ),
        )
        assert told == (
            'Service "lb" is invalid: spec.healthCheckNodePort: Invalid value: 30100: '
            "provided port is already allocated"
        )


async def test_every_change_of_type_leaves_exactly_what_the_service_shows():
    async with api_bed() as bed:
        before = await claimed(bed)
        await bed.made(SERVICES, service("s"))
        for kind in (
            "NodePort",
            "LoadBalancer",
            "ClusterIP",
            "ExternalName",
            "NodePort",
            "ExternalName",
            "ClusterIP",
        ):
            name = {"externalName": "a.example.com"} if kind == "ExternalName" else {}
            after = await changed(bed, "s", type=kind, **name)
            assert (await claimed(bed)).keys() - before.keys() == shown(after)
        await bed.call("DELETE", f"{SERVICES}/s")
        assert await claimed(bed) == before


async def test_a_dry_run_of_an_update_finds_a_taken_port_and_shows_the_revision():
    async with api_bed() as bed:
        await bed.made(SERVICES, service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
        made = await bed.made(SERVICES, service("b", type="NodePort"))
        path = f"{SERVICES}/b?dryRun=All"
        patch = {"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}
        assert (await bed.call("PATCH", path, patch, Content_Type=MERGE))[0] == 422
        code, shown = await bed.call("PATCH", path, {"spec": {"selector": {"a": "b"}}}, Content_Type=MERGE)
        assert (code, shown["metadata"]["resourceVersion"]) == (200, made["metadata"]["resourceVersion"])


async def test_a_second_family_comes_and_goes_with_the_policy():
    async with api_bed("10.96.0.0/12,fd00::/108") as bed:
        before = await claimed(bed)
        made = await bed.made(SERVICES, service("s"))
        both = await changed(bed, "s", ipFamilyPolicy="PreferDualStack")
        assert both["spec"]["clusterIPs"][0] == made["spec"]["clusterIP"]
        assert both["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
        assert (await claimed(bed)).keys() - before.keys() == set(both["spec"]["clusterIPs"])
        one = await changed(bed, "s", ipFamilyPolicy="SingleStack")
        assert (one["spec"]["clusterIPs"], one["spec"]["ipFamilies"]) == (made["spec"]["clusterIPs"], ["IPv4"])
        assert (await claimed(bed)).keys() - before.keys() == set(one["spec"]["clusterIPs"])
