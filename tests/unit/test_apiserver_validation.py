"""What the kinds of service networking refuse, in upstream's words and at upstream's field paths."""

import base64
import json

import pytest

from kubeproxy.store.base import Range, prefix_end
from tests.apiserver_bed import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    MERGE,
    PODS,
    SERVICES,
    SLICES,
    STRATEGIC,
    api_bed,
    claimed,
    deployment,
    pod,
    service,
    shown,
)

pytestmark = pytest.mark.unit

ENDPOINTS = "/api/v1/namespaces/default/endpoints"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
NODES = "/api/v1/nodes"
JSON_PATCH = "application/json-patch+json"


def meta(**more):
    return {"metadata": {"name": "x", **more}}


def slice_of(**endpoint):
    return meta() | {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], **endpoint}]}


def subset(**fields):
    return meta() | {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}], **fields}]}


def rolling(**values):
    obj = deployment("x")
    obj["spec"]["strategy"] = {"rollingUpdate": values}
    return obj


def owner(name):
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": True}


HINTS = [{"name": f"n{i}"} for i in range(9)]
REFUSED = [
    (
        CONFIG_MAPS,
        meta(finalizers=["mine"]),
        'metadata.finalizers[0]: Invalid value: "mine": name is neither a st',
    ),
    (CONFIG_MAPS, meta(finalizers=["a b/c"]), 'metadata.finalizers: Invalid value: "a b/c": prefix part a lower'),
    (
        CONFIG_MAPS,
        meta(ownerReferences=[owner("a"), owner("b")]),
        'Found "true" in references for Pod/a and Pod/b',
    ),
    (
        CONFIG_MAPS,
        meta(annotations={"a": "é" * 131073}),
        "metadata.annotations: Too long: may not be more than 262144",
    ),
    (CONFIG_MAPS, meta(labels={"a": "b c"}), 'metadata.labels: Invalid value: "b c": a valid label must be'),
    (CONFIG_MAPS, {"metadata": {"generateName": "A-"}}, 'metadata.generateName: Invalid value: "A-"'),
    (CONFIG_MAPS, meta() | {"data": {"a": "x" * 1048577}}, "[]: Too long: may not be more than 1048576 bytes"),
    (
        CONFIG_MAPS,
        meta() | {"binaryData": {"a": base64.b64encode(b"x" * 1048577).decode()}},
        "[]: Too long: may not be more than 1048576 bytes",
    ),
    (
        CONFIG_MAPS,
        meta() | {"data": {"a": ""}, "binaryData": {"a": ""}},
        'data[a]: Invalid value: "a": duplicate of',
    ),
    (
        SLICES,
        slice_of(hints={"forNodes": HINTS}),
        "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items",
    ),
    (SLICES, slice_of(hints={"forZones": HINTS[:1] * 2}), 'hints.forZones[1].name: Duplicate value: "n0"'),
    (SLICES, slice_of(hints={"forNodes": [{"name": "A B"}]}), 'hints.forNodes[0].name: Invalid value: "A B"'),
    (SLICES, slice_of(nodeName="A B"), 'endpoints[0].nodeName: Invalid value: "A B"'),
    (
        ENDPOINTS,
        subset(ports=[{"port": 80}, {"port": 81, "name": "b"}]),
        "subsets[0].ports[0].name: Required value",
    ),
    (
        ENDPOINTS,
        subset(ports=[{"name": "a"}]),
        "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and",
    ),
    (
        ENDPOINTS,
        subset(addresses=[{"ip": "10.0.0.1", "hostname": "A"}]),
        'addresses[0].hostname: Invalid value: "A"',
    ),
    (
        LEASES,
        meta() | {"spec": {"strategy": "Mine"}},
        'Unsupported value: "Mine": supported values: "OldestEmulat',
    ),
    (LEASES, meta() | {"spec": {"preferredHolder": "a"}}, "may only be specified if `strategy` is defined"),
    (
        NODES,
        meta() | {"spec": {"taints": [{"key": "a b", "effect": "NoSchedule"}]}},
        "spec.taints[0].key: Invalid",
    ),
    (
        NODES,
        meta() | {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}] * 2}},
        "spec.taints[1]: Duplicate",
    ),
    (
        DEPLOYMENTS,
        rolling(maxUnavailable="101%"),
        'maxUnavailable: Invalid value: "101%": must not be greater than',
    ),
    (DEPLOYMENTS, rolling(maxUnavailable=0, maxSurge="0%"), "may not be 0 when `maxSurge` is 0"),
    (
        DEPLOYMENTS,
        {**deployment("x"), "spec": {**deployment("x")["spec"], "minReadySeconds": 600}},
        "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
    ),
]


DNS = [
    ({"dnsPolicy": "Mine"}, 'spec.dnsPolicy: Unsupported value: "Mine"'),
    ({"dnsPolicy": "None"}, "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"),
    (
        {"dnsPolicy": "None", "dnsConfig": {}},
        "spec.dnsConfig.nameservers: Required value: must provide at least one",
    ),
    ({"dnsConfig": {"nameservers": ["10.0.0.1"] * 4}}, "must not have more than 3 nameservers"),
    ({"dnsConfig": {"nameservers": ["ns"]}}, 'spec.dnsConfig.nameservers[0]: Invalid value: "ns"'),
    ({"dnsConfig": {"searches": ["a"] * 33}}, "must not have more than 32 search paths"),
    ({"dnsConfig": {"searches": ["a b"]}}, 'spec.dnsConfig.searches[0]: Invalid value: "a b"'),
    ({"dnsConfig": {"options": [{"value": "5"}]}}, "spec.dnsConfig.options[0]: Required value: must not be empty"),
    ({"hostAliases": [{"ip": "x", "hostnames": ["a b"]}]}, 'spec.hostAliases[0].ip: Invalid value: "x"'),
]


async def test_what_cannot_be_a_resolv_conf_is_refused():
    async with api_bed() as bed:
        for spec, message in DNS:
            assert message in await bed.refused(PODS, pod("p", **spec)), message
        config = {"nameservers": ["10.96.0.10"], "searches": ["a.b.", "."], "options": [{"name": "ndots"}]}
        await bed.made(PODS, pod("p", dnsPolicy="None", dnsConfig=config))


INGRESS = [
    ({"ip": "x"}, 'status.loadBalancer.ingress[0].ip: Invalid value: "x"'),
    ({"ip": "192.0.2.1", "ipMode": "Mine"}, 'ingress[0].ipMode: Unsupported value: "Mine": supported values: "Pr'),
    (
        {"hostname": "a.b", "ipMode": "VIP"},
        "ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
    ),
    ({"hostname": "192.0.2.1"}, "must be a DNS name, not an IP address"),
]


async def test_a_load_balancers_ingress_is_checked_and_completed():
    async with api_bed() as bed:
        await bed.made(SERVICES, service("s", type="LoadBalancer"))
        path = f"{SERVICES}/s/status"
        for ingress, message in INGRESS:
            body = {"status": {"loadBalancer": {"ingress": [ingress]}}}
            code, told = await bed.call("PATCH", path, body, Content_Type=MERGE)
            assert (code, message in told["message"]) == (422, True), told
        body = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
        code, after = await bed.call("PATCH", path, body, Content_Type=MERGE)
        assert after["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]


async def test_what_upstream_refuses_is_refused():
    async with api_bed() as bed:
        for path, obj, message in REFUSED:
            assert message in await bed.refused(path, obj), message


async def test_an_object_that_waits_for_its_end_gets_no_new_finalizer():
    async with api_bed() as bed:
        await bed.made(CONFIG_MAPS, meta(finalizers=["a.b/c"]))
        await bed.call("DELETE", f"{CONFIG_MAPS}/x")
        patch = {"metadata": {"finalizers": ["a.b/c", "a.b/d"]}}
        code, told = await bed.call("PATCH", f"{CONFIG_MAPS}/x", patch, Content_Type=MERGE)
        assert code == 422
        assert told["message"].endswith(
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, "
            'found new finalizers []string{"a.b/d"}'
        )


HOSTILE = ["../x", "a/b", "a\n", "a\x00b", "*", "", "a" * 254, "ä", "..", "%2e%2e", "range\xff"]


async def test_hostile_names_reach_no_key():
    """In every field that a store key is made of: names, namespaces, addresses, protocols."""
    prefix = b"/registry/"
    async with api_bed() as bed:
        before = await bed.registry.store.range(Range(key=prefix, range_end=prefix_end(prefix), keys_only=True))
        for text in HOSTILE:
            tries = [
                (CONFIG_MAPS, {"metadata": {"name": text}}),
                (CONFIG_MAPS, {"metadata": {"generateName": text + "/"}}),
                (CONFIG_MAPS, {"metadata": {"name": "x", "namespace": text + "/"}}),
                ("/api/v1/namespaces", {"metadata": {"name": text}}),
                (SERVICES, service("x", clusterIPs=[text + "/"], clusterIP=text + "/")),
                (SERVICES, service("x", type="NodePort", ports=[{"port": 80, "protocol": text + "/"}])),
                ("/apis/networking.k8s.io/v1/servicecidrs", meta() | {"spec": {"cidrs": [text]}}),
            ]
            for path, obj in tries:
                told = await bed.refused(path, obj)
                assert "\n" not in told, (path, obj)
        after = await bed.registry.store.range(Range(key=prefix, range_end=prefix_end(prefix), keys_only=True))
        assert [kv.key for kv in after.kvs] == [kv.key for kv in before.kvs]


async def test_an_object_above_the_limit_is_refused_and_what_stood_stays():
    async with api_bed() as bed:
        path = "/api/v1/namespaces/default/events"
        event = meta() | {"involvedObject": {"namespace": "default"}, "message": "small"}
        made = await bed.made(path, event)
        code, told = await bed.call("PUT", f"{path}/x", {**made, "message": "x" * 1_600_000})
        assert (code, told["reason"]) == (413, "RequestEntityTooLarge")
        _, kept = await bed.call("GET", f"{path}/x")
        assert kept["message"] == "small"


async def test_events_go_on_when_their_lease_is_lost():
    """A lease that they share was revoked, or ran out while the machine was paused."""
    path = "/api/v1/namespaces/default/events"
    async with api_bed() as bed:
        for name in ("a", "b"):
            await bed.made(path, {"metadata": {"name": name}, "involvedObject": {"namespace": "default"}})
            for lease in await bed.registry.store.lease_list():
                await bed.registry.store.lease_revoke(lease)


def by_put(spec):
    async def change(bed, path):
        _, obj = await bed.call("GET", path)
        merged = {key: value for key, value in {**obj["spec"], **spec}.items() if value is not None}
        return await bed.call("PUT", path, {**obj, "spec": merged})

    return change


def by_patch(content_type, spec):
    async def change(bed, path):
        body = {"spec": spec}
        if content_type == JSON_PATCH:
            body = [{"op": "add", "path": f"/spec/{key}", "value": value} for key, value in spec.items()]
        return await bed.call("PATCH", path, body, Content_Type=content_type)

    return change


WAYS = {
    "put": by_put,
    "merge": lambda spec: by_patch(MERGE, spec),
    "strategic": lambda spec: by_patch(STRATEGIC, spec),
    "json": lambda spec: by_patch(JSON_PATCH, spec),
}
TYPES = {
    "ClusterIP": {"type": "ClusterIP"},
    "NodePort": {"type": "NodePort"},
    "LoadBalancer": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "a.b/c"},
    "ExternalName": {"type": "ExternalName", "externalName": "a.example.com"},
}
# The fields that a Service of the type has, of those that belong to some types only.
OWN = {
    "ClusterIP": {"clusterIP", "internalTrafficPolicy"},
    "NodePort": {"clusterIP", "internalTrafficPolicy", "nodePort", "externalTrafficPolicy"},
    "LoadBalancer": {
        *("clusterIP", "internalTrafficPolicy", "nodePort", "externalTrafficPolicy"),
        *("healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"),
    },
    "ExternalName": {"externalName"},
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_change_of_type_takes_and_releases(way):
    """The client sends back all that it read, with another type: what no longer fits must go by itself."""
    ingress = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    async with api_bed() as bed:
        empty = await claimed(bed)
        for old in TYPES:
            for new in TYPES:
                await bed.made(SERVICES, service("s", sessionAffinity="ClientIP", **TYPES[old]))
                if old == "LoadBalancer":
                    await bed.call("PATCH", f"{SERVICES}/s/status", ingress, Content_Type=MERGE)
                code, after = await WAYS[way](TYPES[new])(bed, f"{SERVICES}/s")
                assert code == 200, (old, new, after)
                found = set(after["spec"]) | {key for port in after["spec"]["ports"] for key in port}
                tied = set().union(*OWN.values())
                # Upstream keeps internalTrafficPolicy on an ExternalName that was something else.
                assert (found & tied) - OWN[new] <= {"internalTrafficPolicy"}, (old, new)
                assert OWN[new] <= found | ({"loadBalancerClass"} if old != new else set()), (old, new)
                kept = old == new == "LoadBalancer"
                assert bool(after["status"]["loadBalancer"]) is kept, (old, new)
                assert (await claimed(bed)).keys() - empty.keys() == shown(after), (old, new)
                await bed.call("DELETE", f"{SERVICES}/s")
        assert await claimed(bed) == empty


BALANCED = service("s", type="LoadBalancer", loadBalancerClass="a.b/c", externalTrafficPolicy="Local")
IMMUTABLE = [
    (
        SERVICES,
        service("s"),
        {"spec": {"clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"]}},
        "spec.clusterIPs[0]",
    ),
    (SERVICES, service("s"), {"spec": {"ipFamilies": ["IPv6"]}}, "spec.ipFamilies[0]: Invalid value"),
    (
        SERVICES,
        BALANCED,
        {"spec": {"loadBalancerClass": "a.b/d"}},
        'spec.loadBalancerClass: Invalid value: "a.b/d": may not change once set',
    ),
    (
        SERVICES,
        BALANCED,
        {"spec": {"healthCheckNodePort": 30999}},
        "spec.healthCheckNodePort: Forbidden: field is imm",
    ),
    (
        DEPLOYMENTS,
        deployment("s"),
        {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}},
        "spec.selector: Invalid value",
    ),
    (
        SLICES,
        slice_of(),
        {"addressType": "IPv6", "endpoints": []},
        'addressType: Invalid value: "IPv6": field is imm',
    ),
    (
        NODES,
        meta() | {"spec": {"podCIDR": "10.244.0.0/24"}},
        {"spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}},
        'node updates may not change podCIDR except from "" to valid',
    ),
    (
        CONFIG_MAPS,
        meta() | {"immutable": True},
        {"data": {"a": "b"}},
        "data: Forbidden: field is immutable when `imm",
    ),
    (
        CONFIG_MAPS,
        meta() | {"immutable": True},
        {"immutable": False},
        "immutable: Forbidden: field is immutable when",
    ),
]


@pytest.mark.parametrize("row", range(len(IMMUTABLE)))
async def test_what_is_fixed_stays(row):
    path, obj, patch, message = IMMUTABLE[row]
    async with api_bed("10.96.0.0/12,fd00::/120") as bed:
        made = await bed.made(path, json.loads(json.dumps(obj)))
        code, told = await bed.call("PATCH", f"{path}/{made['metadata']['name']}", patch, Content_Type=MERGE)
        assert code == 422, told
        assert message in told["message"]
        _, kept = await bed.call("GET", f"{path}/{made['metadata']['name']}")
        assert kept == made


async def test_metadata_that_the_server_owns_is_kept_or_refused():
    async with api_bed() as bed:
        made = await bed.made(CONFIG_MAPS, meta())
        patch = {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9, "selfLink": "/x"}}
        code, after = await bed.call("PATCH", f"{CONFIG_MAPS}/x", patch, Content_Type=MERGE)
        assert (code, after) == (200, made)
        code, told = await bed.call(
            "PATCH", f"{CONFIG_MAPS}/x", {"metadata": {"uid": "other"}}, Content_Type=MERGE
        )
        assert (code, told["reason"]) == (409, "Conflict")
        code, told = await bed.call("PUT", f"{CONFIG_MAPS}/x", {"metadata": {"name": "y"}})
        assert (code, told["reason"]) == (400, "BadRequest")
