"""Services are defaulted, validated and given addresses as upstream does it, in upstream's words."""

import asyncio

import pytest

from tests.apiserver_bed import SERVICES, STRATEGIC, api_bed, service

pytestmark = pytest.mark.unit


async def test_a_plain_service_is_completed():
    async with api_bed() as bed:
        made = await bed.made(SERVICES, service("a"))
        spec = made["spec"]
        assert spec.pop("clusterIP") == spec.pop("clusterIPs")[0]
        assert spec == {
            "type": "ClusterIP",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
        }
        assert made["status"] == {"loadBalancer": {}}
        assert made["metadata"]["uid"]
        assert int(made["metadata"]["resourceVersion"]) > 0


async def test_other_types_are_completed():
    async with api_bed() as bed:
        balanced = await bed.made(SERVICES, service("lb", type="LoadBalancer", externalTrafficPolicy="Local"))
        assert balanced["spec"]["allocateLoadBalancerNodePorts"] is True
        assert 30000 <= balanced["spec"]["healthCheckNodePort"] <= 32767
        assert balanced["spec"]["ports"][0]["nodePort"] != balanced["spec"]["healthCheckNodePort"]
        headless = await bed.made(SERVICES, service("h", clusterIP="None", selector={"a": "b"}))
        assert headless["spec"]["clusterIPs"] == ["None"]
        external = await bed.made(
            SERVICES, service("e", type="ExternalName", externalName="a.example.com", ports=[])
        )
        assert "clusterIP" not in external["spec"]
        sticky = await bed.made(SERVICES, service("s", sessionAffinity="ClientIP"))
        assert sticky["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
        external_ips = await bed.made(SERVICES, service("x", externalIPs=["192.0.2.1"]))
        assert external_ips["spec"]["externalTrafficPolicy"] == "Cluster"


REFUSALS = [
    ({"ports": []}, "spec.ports: Required value"),
    ({"ports": [{"port": 0}]}, "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    ({"ports": [{"port": 70000}]}, "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535"),
    ({"ports": [{"port": 80}, {"port": 81}]}, "spec.ports[0].name: Required value"),
    (
        {"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]},
        'spec.ports[1].name: Duplicate value: "a"',
    ),
    ({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}, "spec.ports[1]: Duplicate value"),
    (
        {"ports": [{"port": 80, "protocol": "ICMP"}]},
        'Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"',
    ),
    ({"ports": [{"port": 80, "targetPort": "a\nb"}]}, "must contain only alpha-numeric characters"),
    ({"ports": [{"port": 80, "nodePort": 30001}]}, "may not be used when `type` is 'ClusterIP'"),
    (
        {"type": "NodePort", "ports": [{"port": 80, "nodePort": 29999}]},
        "spec.ports[0].nodePort: Invalid value: 29999: provided port is not in the valid range. "
        "The range of valid ports is 30000-32767",
    ),
    ({"clusterIP": "nonsense"}, "must be a valid IP address"),
    ({"clusterIP": "192.168.0.1"}, "failed to allocate IP 192.168.0.1: the provided network does not match"),
    ({"clusterIP": "10.96.0.0"}, "is not in the valid range. The range of valid IPs is 10.96.0.0/12"),
    ({"clusterIP": "10.111.255.255"}, "is not in the valid range"),
    ({"clusterIP": "10.96.0.1"}, "failed to allocate IP 10.96.0.1: provided IP is already allocated"),
    (
        {"clusterIP": "fd00::1"},
        'spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster',
    ),
    (
        {"clusterIP": "fd00::1", "ipFamilies": ["IPv4"]},
        "expected an IPv4 value as indicated by `ipFamilies[0]`",
    ),
    ({"clusterIPs": ["10.96.0.9", "10.96.0.8"]}, "may specify no more than one IP for each IP family"),
    ({"ipFamilyPolicy": "RequireDualStack"}, "this cluster is not configured for dual-stack services"),
    ({"type": "NodePort", "clusterIP": "None"}, "may not be set to 'None' for NodePort services"),
    ({"type": "Bogus"}, 'spec.type: Unsupported value: "Bogus"'),
    ({"type": "ExternalName", "externalName": "a b"}, "a lowercase RFC 1123 subdomain must consist"),
    ({"type": "ExternalName"}, "spec.externalName: Required value"),
    ({"externalIPs": ["127.0.0.1"]}, "may not be in the loopback range"),
    ({"externalTrafficPolicy": "Local"}, "may only be set for externally-accessible services"),
    ({"loadBalancerSourceRanges": ["10.0.0.0/8"]}, "may only be used when `type` is 'LoadBalancer'"),
    ({"sessionAffinity": "Cookie"}, 'spec.sessionAffinity: Unsupported value: "Cookie"'),
    (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
        "must be greater than 0 and less than 86400",
    ),
    ({"selector": {"a b": "c"}}, "name part must consist of alphanumeric characters"),
]


async def test_refusals_in_upstream_words_leave_nothing_behind():
    async with api_bed() as bed:
        for spec, message in REFUSALS:
            told = await bed.refused(SERVICES, service("bad", **spec))
            assert message in told, (spec, told)
            assert told.startswith('Service "bad" is invalid: ')
        assert (await bed.call("GET", f"{SERVICES}/bad"))[0] == 404
        # What a refused Service asked for is still free.
        await bed.made(SERVICES, service("good", clusterIP="10.96.0.9"))


@pytest.mark.parametrize("name", ["1abc", 'a"b', "a\nb", "a;rm", "$(x)", "a" * 64, "A", "a.b", "../x", "-j"])
async def test_names_that_are_no_label_are_refused(name):
    async with api_bed() as bed:
        told = await bed.refused(SERVICES, service(name))
        assert "metadata.name: Invalid value" in told
        assert "\n" not in told.replace("\\n", "")


async def test_taken_node_ports_and_addresses_are_refused_until_released():
    async with api_bed() as bed:
        port = [{"port": 80, "nodePort": 32600}]
        await bed.made(SERVICES, service("a", type="NodePort", clusterIP="10.96.0.50", ports=port))
        told = await bed.refused(SERVICES, service("b", type="NodePort", ports=port))
        assert told.startswith('Service "b" is invalid: ')
        assert told.endswith("spec.ports[0].nodePort: Invalid value: 32600: provided port is already allocated")
        told = await bed.refused(SERVICES, service("b", clusterIP="10.96.0.50"))
        assert "failed to allocate IP 10.96.0.50: provided IP is already allocated" in told
        udp = [{"port": 80, "nodePort": 32600, "protocol": "UDP"}]
        await bed.made(SERVICES, service("udp", type="NodePort", ports=udp))
        assert (await bed.call("DELETE", f"{SERVICES}/a"))[0] == 200
        await bed.made(SERVICES, service("b", type="NodePort", clusterIP="10.96.0.50", ports=port))


async def test_fifty_parallel_creates_get_fifty_addresses_and_ports():
    async with api_bed("10.96.0.0/26", "30000-30060") as bed:
        made = await asyncio.gather(*(bed.made(SERVICES, service(f"s{i}", type="NodePort")) for i in range(50)))
        assert len({s["spec"]["clusterIP"] for s in made}) == 50
        assert len({s["spec"]["ports"][0]["nodePort"] for s in made}) == 50


async def test_a_full_range_says_so():
    async with api_bed("10.96.0.0/29") as bed:
        for index in range(5):
            await bed.made(SERVICES, service(f"s{index}"))
        assert "failed to allocate a serviceIP: range is full" in await bed.refused(SERVICES, service("one-more"))


async def test_one_of_parallel_creates_of_a_name_wins():
    async with api_bed() as bed:
        answers = await asyncio.gather(*(bed.call("POST", SERVICES, service("same")) for _ in range(10)))
        assert sorted(code for code, _ in answers) == [201] + [409] * 9
        assert {a["reason"] for code, a in answers if code == 409} == {"AlreadyExists"}


async def patch(bed, name, spec):
    return await bed.call("PATCH", f"{SERVICES}/{name}", {"spec": spec}, Content_Type=STRATEGIC)


async def test_changes_of_type_take_and_release_node_ports():
    async with api_bed() as bed:
        port = [{"port": 80, "nodePort": 32000}]
        made = await bed.made(SERVICES, service("a", type="NodePort", ports=port))
        code, changed = await patch(bed, "a", {"type": "ClusterIP"})
        assert code == 200, changed
        assert "nodePort" not in changed["spec"]["ports"][0]
        assert "externalTrafficPolicy" not in changed["spec"]
        assert changed["spec"]["clusterIP"] == made["spec"]["clusterIP"]
        await bed.made(SERVICES, service("b", type="NodePort", ports=port))
        code, changed = await patch(bed, "a", {"type": "NodePort"})
        assert changed["spec"]["ports"][0]["nodePort"] != 32000
        code, changed = await patch(bed, "a", {"type": "ExternalName", "externalName": "x.example.com"})
        assert code == 200, changed
        assert "clusterIP" not in changed["spec"]
        await bed.made(SERVICES, service("c", clusterIP=made["spec"]["clusterIP"]))


async def test_an_update_without_addresses_keeps_them():
    async with api_bed() as bed:
        made = await bed.made(SERVICES, service("a", type="NodePort"))
        code, changed = await bed.call("PUT", f"{SERVICES}/a", service("a", type="NodePort", selector={"x": "y"}))
        assert code == 200, changed
        assert changed["spec"]["clusterIP"] == made["spec"]["clusterIP"]
        assert changed["spec"]["ports"] == made["spec"]["ports"]


async def test_a_cluster_ip_does_not_change():
    async with api_bed() as bed:
        await bed.made(SERVICES, service("a", clusterIP="10.96.0.70"))
        code, told = await patch(bed, "a", {"clusterIP": "10.96.0.71", "clusterIPs": ["10.96.0.71"]})
        assert code == 422
        assert "may not change once set" in told["message"]


async def test_two_ranges_make_dual_stack_services():
    async with api_bed("10.96.0.0/24,fd00::/108") as bed:
        single = await bed.made(SERVICES, service("one"))
        assert single["spec"]["ipFamilies"] == ["IPv4"]
        both = await bed.made(SERVICES, service("two", ipFamilyPolicy="PreferDualStack"))
        assert [":" in ip for ip in both["spec"]["clusterIPs"]] == [False, True]


async def test_the_kubernetes_service_leads_to_the_server():
    async with api_bed() as bed:
        _, found = await bed.call("GET", f"{SERVICES}/kubernetes")
        assert found["spec"]["clusterIP"] == "10.96.0.1"
        assert found["spec"]["ports"][0] == {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8001}
        _, slices = await bed.call("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        assert slices["endpoints"][0]["addresses"] == ["192.168.56.10"]
