"""Rules are read back as they were written, whatever the configuration, lest every look at them find drift."""

from typing import Any

import msgspec
import pytest

from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import AddTable, DeleteTable
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import ServiceCIDR
from kubeproxy.model.settings import LocalMode
from kubeproxy.testing.build import world
from tests.netns.lone_namespace import lone_namespace
from tests.netns.test_nftables_table import SETTINGS, objects

pytestmark = pytest.mark.netns

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "everybody is masqueraded": {"masquerade_all": True},
    "the last bit": {"masquerade_bit": 31},
    "node ports at every address": {"nodeport_addresses": ()},
    "nobody knows pods": {"cluster_cidrs": ()},
    "networks that end within a byte": {"cluster_cidrs": ("10.244.0.0/15", "fd00:10:240::/45")},
    "pods are everywhere": {"cluster_cidrs": ("0.0.0.0/0", "::/0")},
    "pods behind a bridge": {"detect_local": LocalMode.BRIDGE_INTERFACE, "pod_bridge": "cni0"},
    "pods by interface": {"detect_local": LocalMode.INTERFACE_NAME_PREFIX, "pod_interface_prefix": "veths"},
}


@pytest.mark.parametrize("family", Family)
def test_what_others_touch_elsewhere_is_no_drift_in_any_configuration(family: Family) -> None:
    built = world(*objects(family))
    cidrs = ("10.96.0.0/12", "fd00:10:96::/112")
    built.apply_service_cidrs({("", "kubernetes"): ServiceCIDR(name="kubernetes", cidrs=cidrs)})

    def looks() -> dict[str, str]:
        table, other = KernelTable(family), KernelTable(family, "other")
        found = {}
        for name, fields in CONFIGURATIONS.items():
            backend = NftablesBackend(table, FakeSysctls(), family)
            plan = backend.diff(wanted(built, msgspec.structs.replace(SETTINGS, **fields), family), None)
            assert plan is not None
            backend.apply(plan)
            other.commit([AddTable(), DeleteTable()])
            found[name] = backend.observe()
            backend.cleanup()
        return found

    with lone_namespace() as namespace:
        assert namespace.run(looks) == dict.fromkeys(CONFIGURATIONS, "")
