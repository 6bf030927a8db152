"""flanneld against the real etcd: the schema's transactions, leases and watches are etcd's, not only ours."""

import os
import shutil
from pathlib import Path

import pytest

from tests.netns.flannel_bed import PREFIX, Bed
from tests.waiting import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made as root"),
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd-server is not installed"),
]


@pytest.fixture
def bed(tmp_path: Path):
    made = Bed(tmp_path)
    try:
        made.open()
        made.start_etcd()
        made.configure(Type="vxlan")
        yield made
    finally:
        made.close()


def test_two_nodes_lease_meet_and_survive_etcds_restart(bed: Bed):
    for number in range(2):
        bed.start(number)
    bed.wait_ready()
    addresses = [bed.attach_pod(number) for number in range(2)]
    assert bed.pings(0, addresses[1])
    assert bed.pings(1, addresses[0])

    bed.stop_store()
    until(lambda: not bed.ready(1), "not ready without etcd", 10)
    assert bed.pings(0, addresses[1])
    bed.start_etcd()
    bed.wait_ready()

    subnet = bed.subnet_env(1)["FLANNEL_SUBNET"].replace(".1/", ".0-")
    bed.stop(1)
    bed.delete(f"{PREFIX}/subnets/{subnet}")
    until(lambda: "flannel.1" not in bed.on_node(0, "ip", "route"), "the lease's route is gone", 10)
    bed.start(1)
    bed.wait_ready(1)
    until(lambda: bed.pings(0, addresses[1]), "traffic", 10)
