"""ipFamilyPolicy, ipFamilies and clusterIPs on every kind of cluster, as upstream's storage tests have them."""

import pytest

from kubeproxy.store.sqlite import SqliteStore
from tests.apiserver_bed import MERGE, SERVICES, api_bed, api_on, service

pytestmark = pytest.mark.unit

CLUSTERS = {
    "v4": "10.96.0.0/24",
    "v6": "fd00::/120",
    "v4v6": "10.96.0.0/24,fd00::/120",
    "v6v4": "fd00::/120,10.96.0.0/24",
}
HEADLESS = {"clusterIP": "None", "selector": {"a": "b"}}
ALONE = {"clusterIP": "None"}
EXTERNAL = {"type": "ExternalName", "externalName": "a.example.com"}
SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
NOT_DUAL = 'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack'
TWO_FAMILIES = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
TWO_ADDRESSES = "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"

# What is asked, on which clusters, and the policy and families that come of it, or the refusal.
CREATES = [
    ({}, {"v4": (SINGLE, "4"), "v6": (SINGLE, "6"), "v4v6": (SINGLE, "4"), "v6v4": (SINGLE, "6")}),
    ({"ipFamilyPolicy": PREFER}, {"v4": (PREFER, "4"), "v4v6": (PREFER, "46"), "v6v4": (PREFER, "64")}),
    (
        {"ipFamilyPolicy": REQUIRE},
        {"v4": NOT_DUAL, "v6": NOT_DUAL, "v4v6": (REQUIRE, "46"), "v6v4": (REQUIRE, "64")},
    ),
    (
        {"ipFamilies": ["IPv6"]},
        {"v4": 'ipFamilies[0]: Invalid value: "IPv6": not configured', "v6": (SINGLE, "6"), "v4v6": (SINGLE, "6")},
    ),
    (
        {"ipFamilyPolicy": PREFER, "ipFamilies": ["IPv6"]},
        {
            "v4": "not configured on this cluster",
            "v6": (PREFER, "6"),
            "v4v6": (PREFER, "64"),
            "v6v4": (PREFER, "64"),
        },
    ),
    ({"ipFamilies": ["IPv6", "IPv4"]}, {"v4": TWO_FAMILIES, "v4v6": TWO_FAMILIES}),
    (
        {"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6", "IPv4"]},
        {"v4": NOT_DUAL, "v4v6": (REQUIRE, "64"), "v6v4": (REQUIRE, "64")},
    ),
    ({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": PREFER}, {"v4v6": "Duplicate value"}),
    ({"clusterIP": "fd00::9"}, {"v4": "IPv6 is not configured on this cluster", "v4v6": (SINGLE, "6")}),
    ({"clusterIP": "fd00::9", "ipFamilyPolicy": PREFER}, {"v4v6": (PREFER, "64"), "v6": (PREFER, "6")}),
    ({"clusterIPs": ["10.96.0.9", "fd00::9"]}, {"v4v6": TWO_ADDRESSES}),
    ({"clusterIPs": ["10.96.0.9", "fd00::9"], "ipFamilyPolicy": REQUIRE}, {"v6v4": (REQUIRE, "46")}),
    ({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv6"]}, {"v4v6": "expected an IPv6 value as indicated by"}),
    (HEADLESS, {"v4": (SINGLE, "4"), "v6": (SINGLE, "6"), "v4v6": (SINGLE, "4")}),
    (HEADLESS | {"ipFamilyPolicy": PREFER}, {"v4": (PREFER, "4"), "v6v4": (PREFER, "64")}),
    (HEADLESS | {"ipFamilyPolicy": REQUIRE}, {"v4": NOT_DUAL, "v4v6": (REQUIRE, "46")}),
    (ALONE, {"v4": (REQUIRE, "46"), "v6": (REQUIRE, "64"), "v4v6": (REQUIRE, "46"), "v6v4": (REQUIRE, "64")}),
    (ALONE | {"ipFamilyPolicy": SINGLE}, {"v4": (SINGLE, "4"), "v6v4": (SINGLE, "6")}),
    (ALONE | {"ipFamilyPolicy": PREFER}, {"v4": (PREFER, "46"), "v6": (PREFER, "64")}),
    (ALONE | {"ipFamilies": ["IPv6"]}, {"v4": (REQUIRE, "64"), "v4v6": (REQUIRE, "64")}),
    (ALONE | {"ipFamilies": ["IPv6"], "ipFamilyPolicy": SINGLE}, {"v4": (SINGLE, "6")}),
    (
        {"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv4"]},
        {"v4": "may not be set for ExternalName"},
    ),
    (EXTERNAL, {"v4v6": (None, "")}),
]


def families(obj):
    spec = obj["spec"]
    found = "".join(family[-1] for family in spec.get("ipFamilies", ()))
    ips = spec.get("clusterIPs", [])
    if ips not in ([], ["None"]):
        assert "".join("6" if ":" in ip else "4" for ip in ips) == found
        assert spec["clusterIP"] == ips[0]
    return spec.get("ipFamilyPolicy"), found


@pytest.mark.parametrize("cluster", CLUSTERS)
async def test_creates(cluster):
    async with api_bed(CLUSTERS[cluster]) as bed:
        for spec, outcomes in CREATES:
            expected = outcomes.get(cluster)
            if isinstance(expected, str):
                assert expected in await bed.refused(SERVICES, service("a", **spec)), spec
            elif expected is not None:
                assert families(await bed.made(SERVICES, service("a", **spec))) == expected, spec
                await bed.call("DELETE", f"{SERVICES}/a")


# Cluster, what stands, the patch, and what comes of it: policy and families, or the refusal.
CHANGES = [
    ("v4v6", {}, {"ipFamilyPolicy": PREFER}, (PREFER, "46")),
    ("v4v6", {}, {"ipFamilyPolicy": REQUIRE}, (REQUIRE, "46")),
    ("v6v4", {}, {"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6", "IPv4"]}, (REQUIRE, "64")),
    ("v4", {}, {"ipFamilyPolicy": REQUIRE}, NOT_DUAL),
    ("v4", {}, {"ipFamilyPolicy": PREFER}, (PREFER, "4")),
    ("v4v6", {"ipFamilyPolicy": PREFER}, {"ipFamilyPolicy": SINGLE}, (SINGLE, "4")),
    ("v4v6", {"ipFamilyPolicy": REQUIRE}, {"ipFamilyPolicy": PREFER}, (PREFER, "46")),
    ("v4v6", {"ipFamilyPolicy": PREFER}, {"ipFamilyPolicy": SINGLE, "ipFamilies": ["IPv4"]}, (SINGLE, "4")),
    (
        "v4v6",
        {"ipFamilyPolicy": PREFER},
        {"ipFamilies": ["IPv4"]},
        "must be 'SingleStack' to release the secondary IP family",
    ),
    (
        "v4v6",
        {"ipFamilyPolicy": PREFER},
        {"ipFamilyPolicy": SINGLE, "ipFamilies": ["IPv6"]},
        "may not change once set",
    ),
    ("v4v6", {}, {"ipFamilies": ["IPv6"]}, "spec.ipFamilies[0]: Invalid value"),
    ("v4v6", {}, {"ipFamilies": ["IPv4", "IPv6"]}, TWO_FAMILIES),
    ("v4v6", {}, EXTERNAL, (None, "")),
    ("v4v6", EXTERNAL, {"type": "ClusterIP"}, (SINGLE, "4")),
    (
        "v6v4",
        EXTERNAL,
        {"type": "NodePort", "ipFamilyPolicy": PREFER},
        (PREFER, "64"),
    ),
    ("v4v6", HEADLESS, {"ipFamilyPolicy": PREFER}, (PREFER, "46")),
    ("v4v6", HEADLESS | {"ipFamilyPolicy": PREFER}, {"ipFamilyPolicy": SINGLE}, (SINGLE, "4")),
    ("v4", ALONE, {"selector": {"a": "b"}}, NOT_DUAL),
    ("v4", HEADLESS, {"selector": None}, (SINGLE, "4")),
    ("v4v6", HEADLESS, {"clusterIP": "10.96.0.9"}, "may not change once set"),
    ("v4v6", {}, {"clusterIP": "None"}, "may not change once set"),
]


@pytest.mark.parametrize("cluster", CLUSTERS)
async def test_changes(cluster):
    async with api_bed(CLUSTERS[cluster]) as bed:
        for where, spec, patch, expected in CHANGES:
            if where != cluster:
                continue
            before = await bed.made(SERVICES, service("a", **spec))
            code, after = await bed.call("PATCH", f"{SERVICES}/a", {"spec": patch}, Content_Type=MERGE)
            if isinstance(expected, str):
                assert code == 422, (spec, patch, after)
                assert expected in after["message"], (spec, patch)
            else:
                assert (code, families(after)) == (200, expected), (spec, patch, after)
                if "type" not in patch:
                    assert after["spec"]["clusterIP"] == before["spec"]["clusterIP"]
            await bed.call("DELETE", f"{SERVICES}/a")


async def test_a_preferring_service_does_not_follow_the_cluster():
    """A cluster that gets its second family leaves what stands alone until somebody asks."""
    async with await SqliteStore.open(":memory:") as store:
        async with api_on(store, CLUSTERS["v4"]) as old, api_on(store, CLUSTERS["v4v6"]) as new:
            await old.made(SERVICES, service("a", ipFamilyPolicy=PREFER))
            _, after = await new.call(
                "PATCH", f"{SERVICES}/a", {"spec": {"selector": {"a": "b"}}}, Content_Type=MERGE
            )
            assert families(after) == (PREFER, "4")
            _, after = await new.call(
                "PATCH", f"{SERVICES}/a", {"spec": {"ipFamilyPolicy": REQUIRE}}, Content_Type=MERGE
            )
            assert families(after) == (REQUIRE, "46")
