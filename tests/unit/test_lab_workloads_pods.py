"""What the kubelet decides without the machine: specs, addresses, probes, statuses, a container's life."""

import asyncio
import json
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.clock import ManualClock, settle
from kubeproxy.lab.containers import CannotStart, ContainerRunner, Plan
from kubeproxy.lab.ipam import AddressPool, Exhausted, next_free, parse_subnet_env
from kubeproxy.lab.launching import command_line, environment
from kubeproxy.lab.podetc import hosts_file, resolv_conf
from kubeproxy.lab.podnetwork import cable_of
from kubeproxy.lab.podspec import ContainerSpec, decode_lab_pod, expand
from kubeproxy.lab.podstatus import ContainerReport, Ended, PodFacts, pod_status
from kubeproxy.lab.probes import ProbeSpec, ProbeState, follow, judge
from kubeproxy.model.decode import DecodeError

pytestmark = pytest.mark.unit


def pod(meta=None, **spec):
    containers = spec.pop("containers", [{"name": "c", "image": "x"}])
    metadata = {"name": "p", "namespace": "ns", "uid": "u", **(meta or {})}
    return decode_lab_pod(json.dumps({"metadata": metadata, "spec": {"containers": containers, **spec}}).encode())


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("metadata.name", {"meta": {"name": "../../etc"}}),
        ("metadata.namespace", {"meta": {"namespace": "a/b"}}),
        ("containers[].name", {"containers": [{"name": "../c"}]}),
        ("containers", {"containers": []}),
        ("two have one name", {"containers": [{"name": "c"}, {"name": "c"}]}),
        ("mountPath", {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/a:/b"}]}]}),
        ("mountPath", {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/a/../.."}]}]}),
        ("mountPath", {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/"}]}]}),
        (
            "subPath",
            {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../x"}]}]},
        ),
        ("volumes[].name", {"volumes": [{"name": "a/b", "emptyDir": {}}]}),
        ("items[].path", {"volumes": [{"name": "v", "configMap": {"items": [{"key": "k", "path": "../k"}]}}]}),
        ("containerPort", {"containers": [{"name": "c", "ports": [{"containerPort": 70000}]}]}),
        ("env[].name", {"containers": [{"name": "c", "env": [{"name": "A=B"}]}]}),
        ("null byte", {"containers": [{"name": "c", "command": ["a\0b"]}]}),
        ("hostname", {"hostname": "a\nb"}),
    ],
)
def test_what_could_leave_its_place_is_refused(field, body):
    with pytest.raises(DecodeError) as told:
        pod(**body)
    assert field in str(told.value)


CLUSTER_RESOLV = (
    "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
)
NODE_RESOLV = "nameserver 192.0.2.1\nsearch example.com\noptions edns0 timeout:2\n"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {},
            CLUSTER_RESOLV,
        ),
        (
            {"dnsPolicy": "Default"},
            "nameserver 192.0.2.1\nsearch example.com\noptions edns0 timeout:2\n",
        ),
        ({"hostNetwork": True}, "nameserver 192.0.2.1\nsearch example.com\noptions edns0 timeout:2\n"),
        (
            {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
            CLUSTER_RESOLV,
        ),
        (
            {
                "dnsPolicy": "None",
                "dnsConfig": {
                    "nameservers": ["1.1.1.1", "evil\nnameserver 6.6.6.6"],
                    "searches": ["a.example", "b c"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "x y"}],
                },
            },
            "nameserver 1.1.1.1\nsearch a.example\noptions ndots:2\n",
        ),
    ],
)
def test_resolv_conf(spec, text):
    assert resolv_conf(pod(**spec), "10.96.0.10", "cluster.local", NODE_RESOLV) == text


def test_hosts_name_the_pod():
    named = pod(hostname="web-0", subdomain="web", hostAliases=[{"ip": "10.0.0.9", "hostnames": ["db", "a b"]}])
    assert hosts_file(named, "10.244.1.2", "node1", "cluster.local").splitlines()[3:] == [
        "10.244.1.2\tweb-0.web.ns.svc.cluster.local\tweb-0",
        "10.0.0.9\tdb",
    ]


def test_variables_refer_to_fields_maps_and_each_other():
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2 $(NONE) $$(A)"},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
        {"name": "NO", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "none", "optional": True}}},
    ]
    found = pod({"labels": {"app": "a"}}, containers=[{"name": "c", "env": env}])
    values = environment(
        found,
        found.spec.containers[0],
        {"m": {"data": {"k": "v"}}},
        hostname="h",
        address="10.244.1.2",
        host_ip="h",
    )
    picked = {key: values.get(key) for key in ("A", "B", "IP", "APP", "KEY", "NO", "HOSTNAME")}
    assert picked == {
        "A": "1",
        "B": "12 $(NONE) $(A)",
        "IP": "10.244.1.2",
        "APP": "a",
        "KEY": "v",
        "NO": None,
        "HOSTNAME": "h",
    }


@pytest.mark.parametrize(
    "source",
    [
        {"fieldRef": {"fieldPath": "spec.everything"}},
        {"configMapKeyRef": {"name": "m", "key": "k"}},
        {"secretKeyRef": {"name": "s", "key": "k"}},
    ],
)
def test_a_reference_to_nothing_holds_the_container_back(source):
    found = pod(containers=[{"name": "c", "env": [{"name": "A", "valueFrom": source}]}])
    with pytest.raises(CannotStart) as told:
        environment(found, found.spec.containers[0], {}, hostname="h", address="", host_ip="")
    assert told.value.reason == "CreateContainerConfigError"


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
def test_expansion_without_references_changes_nothing(text, values):
    if "$" not in text:
        assert expand(text, values) == text


def test_no_command_means_the_responder_on_all_ports():
    ports = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]
    found = pod(containers=[{"name": "c", "ports": ports}])
    argv = command_line(found, found.spec.containers[0], {}, node="n1", ready_file=Path("/r"))
    assert argv[argv.index("--pod") :] == [
        *("--pod", "p", "--node", "n1", "--ready-file", "/r"),
        *("--port", "80/TCP", "--port", "53/UDP"),
    ]
    own = ContainerSpec(name="c", command=("run", "$(A)"), args=("$(B)",))
    assert command_line(found, own, {"A": "1"}, node="n1", ready_file=Path("/r")) == ["run", "1", "$(B)"]


def test_names_of_a_pods_network_fit_the_kernel():
    one, other = cable_of("a" * 63, "b" * 253, "u1"), cable_of("a" * 63, "b" * 253, "u2")
    assert len(one.netns) <= 255
    assert len(one.veth) <= 15
    assert one.netns != other.netns
    assert cable_of("a-b", "c", "u1").netns != cable_of("a", "b-c", "u3").netns


SUBNET = parse_subnet_env("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/29\nFLANNEL_MTU=1450\n")


def test_addresses_go_round(tmp_path):
    pool = AddressPool(tmp_path / "a.json")
    given_out = [str(pool.take(SUBNET, f"p{n}")) for n in range(5)]
    assert given_out == [f"10.244.1.{n}" for n in range(2, 7)]
    with pytest.raises(Exhausted):
        pool.take(SUBNET, "p5")
    pool.free("p0")
    pool.free("p3")
    assert str(pool.take(SUBNET, "p6")) == "10.244.1.2"
    heir = AddressPool(tmp_path / "a.json")
    assert str(heir.take(SUBNET, "p6")) == "10.244.1.2"
    assert str(heir.take(SUBNET, "p7")) == "10.244.1.5"


def test_an_address_just_freed_is_given_last():
    assert next_free(SUBNET, "10.244.1.3", {}) == IPv4Address("10.244.1.4")
    assert next_free(SUBNET, "10.244.1.6", {}) == IPv4Address("10.244.1.2")


@pytest.mark.parametrize("text", ["", "FLANNEL_SUBNET=10.244.1.1/99", "FLANNEL_SUBNET=10.0.0.1/24\nFLANNEL_MTU=1"])
def test_a_broken_subnet_env_is_refused(text):
    with pytest.raises(ValueError):
        parse_subnet_env(text)


@pytest.mark.parametrize(
    ("outcomes", "verdicts"),
    [
        ("+", [True]),
        ("--", [None, None]),
        ("---", [None, None, False]),
        ("+--+", [True, True, True, True]),
        ("+---+", [True, True, True, False, True]),
    ],
)
def test_thresholds(outcomes, verdicts):
    spec, state, found = ProbeSpec(failure_threshold=3), ProbeState(), []
    for outcome in outcomes:
        state = judge(spec, state, outcome == "+")
        found.append(state.healthy)
    assert found == verdicts


async def test_probes_keep_their_times():
    clock, asked, told = ManualClock(), [], []

    async def check():
        asked.append(clock.now())
        return "" if len(asked) > 1 else "not yet"

    spec = ProbeSpec(initial_delay_seconds=1, period_seconds=3, failure_threshold=1)
    start = clock.now()
    following = asyncio.create_task(
        follow(spec, check, clock=clock, age=0.0, initial=True, report=lambda *each: told.append(each))
    )
    await clock.step(10)
    following.cancel()
    assert [at - start for at in asked] == [1, 4, 7, 10]
    assert told == [(False, "not yet"), (True, "")]


ENDED = Ended(exit_code=0, started_at="s", finished_at="f")
FAILED = Ended(exit_code=137, started_at="s", finished_at="f")


@pytest.mark.parametrize(
    ("policy", "report", "phase", "ready"),
    [
        ("Always", ContainerReport(name="c"), "Pending", "False"),
        ("Always", ContainerReport(name="c", pid=7, ready=True), "Running", "True"),
        ("Always", ContainerReport(name="c", pid=7), "Running", "False"),
        ("Always", ContainerReport(name="c", reason="CrashLoopBackOff", last=FAILED), "Running", "False"),
        ("Never", ContainerReport(name="c", ended=ENDED), "Succeeded", "False"),
        ("Never", ContainerReport(name="c", ended=FAILED), "Failed", "False"),
    ],
)
def test_phases(policy, report, phase, ready):
    facts = PodFacts(
        address="10.244.1.2", host_ip="192.0.2.1", started_at="t", initialized=True, containers=[report]
    )
    status, conditions = pod_status(pod(restartPolicy=policy), facts, {}, "now")
    assert (status["phase"], conditions["Ready"].status) == (phase, ready)
    later, _ = pod_status(pod(restartPolicy=policy), facts, conditions, "later")
    assert later == status


class FakeProcess:
    """A process that ends when the test says so, or when it is told to and obeys."""

    def __init__(self, pid, *, obeys=True):
        self.pid = pid
        self.signals = []
        self.obeys = obeys
        self.end = asyncio.get_running_loop().create_future()

    async def wait(self):
        return await asyncio.shield(self.end)

    def signal(self, number):
        self.signals.append(int(number))
        if self.obeys:
            self.finish(0)

    def kill_all(self):
        self.finish(137)

    def finish(self, code):
        if not self.end.done():
            self.end.set_result(code)


class Bed:
    """A container runner over fake processes."""

    def __init__(self, checks=None, policy="Always", obeys=True):
        self.clock = ManualClock()
        self.processes = []
        self.refusals = []

        async def start():
            if self.refusals:
                raise CannotStart("CreateContainerConfigError", self.refusals.pop())
            self.processes.append(FakeProcess(100 + len(self.processes), obeys=obeys))
            return self.processes[-1]

        async def nothing(*_):
            return None

        plan = Plan(
            spec=ContainerSpec(name="c"),
            title="ns/p/c",
            restart_policy=policy,
            start=start,
            opened=nothing,
            checks=checks or {},
            pre_stop=nothing,
        )
        self.runner = ContainerRunner(plan, clock=self.clock, on_change=lambda: None)
        self.task = asyncio.create_task(self.runner.run())

    @property
    def report(self):
        return self.runner.report


async def test_a_container_that_dies_comes_back_after_growing_pauses():
    bed = Bed()
    await settle()
    assert (bed.report.pid, bed.report.ready) == (100, True)
    for number, pause in enumerate([0.1, 0.2, 0.4, 0.8]):
        bed.processes[-1].finish(1)
        await settle()
        assert (bed.report.pid, bed.report.ready, bed.report.restarts) == (0, False, number + 1)
        assert (bed.report.reason, bed.report.last.exit_code) == ("CrashLoopBackOff", 1)
        await bed.clock.step(pause - 0.01)
        assert bed.report.pid == 0
        await bed.clock.step(0.02)
        assert bed.report.pid == 101 + number
    await bed.runner.stop(1)
    await bed.task


@pytest.mark.parametrize(
    ("policy", "code", "comes_back"),
    [("Never", 1, False), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Always", 0, True)],
)
async def test_restart_policies(policy, code, comes_back):
    bed = Bed(policy=policy)
    await settle()
    bed.processes[-1].finish(code)
    await bed.clock.step(1)
    assert (bed.report.pid > 0) is comes_back
    if not comes_back:
        assert bed.report.ended.exit_code == code
        await bed.task
    bed.task.cancel()


def test_a_probe_is_read_as_the_api_has_it_and_one_that_makes_no_sense_is_refused():
    get = {"port": "web", "httpHeaders": [{"name": "Host"}], "path": None}
    found = pod(containers=[{"name": "c", "readinessProbe": {"httpGet": get}}])
    action = found.spec.containers[0].readiness_probe.http_get
    assert (action.port, action.http_headers[0].value, action.path) == ("web", "", None)
    for wrong in ({"httpGet": {"port": {}}}, {"exec": {"command": "true"}}, {"tcpSocket": {}}):
        with pytest.raises(DecodeError):
            pod(containers=[{"name": "c", "livenessProbe": wrong}])


async def test_what_cannot_start_is_tried_again():
    bed = Bed()
    bed.refusals = ["no such key"]
    await settle()
    assert (bed.report.reason, bed.report.message) == ("CreateContainerConfigError", "no such key")
    await bed.clock.step(0.2)
    assert bed.report.is_running
    bed.task.cancel()


def checked(answers, **spec):
    async def check():
        return answers.pop(0) if answers else ""

    return (ProbeSpec(period_seconds=1, **spec), check)


async def test_readiness_colours_and_liveness_ends():
    bed = Bed(
        {
            "readiness": checked(["no", "", "no"], failure_threshold=1),
            "liveness": checked(["", "", "", "dead"], failure_threshold=1),
        }
    )
    seen = []
    for _ in range(4):
        await settle()
        seen.append(bed.report.ready)
        await bed.clock.step(1)
    assert seen == [False, True, False, False]
    assert bed.processes[0].signals == [15]
    assert bed.report.restarts == 1
    bed.task.cancel()


async def test_the_startup_probe_holds_the_others_back():
    bed = Bed({"startup": checked(["no", "no", ""]), "readiness": checked([])})
    seen = []
    for _ in range(4):
        await settle()
        seen.append((bed.report.started, bed.report.ready))
        await bed.clock.step(1)
    assert seen == [(False, False), (False, False), (True, True), (True, True)]
    bed.task.cancel()


async def test_a_process_that_does_not_obey_is_killed_when_grace_is_over():
    bed = Bed(obeys=False)
    await settle()
    stopping = asyncio.create_task(bed.runner.stop(5))
    await bed.clock.step(4.9)
    assert not stopping.done()
    await bed.clock.step(0.2)
    await stopping
    await bed.task
    assert bed.processes[0].signals == [15]
    assert bed.report.ended.exit_code == 137


async def test_a_container_that_was_taken_over_is_not_started():
    bed = Bed()
    process = FakeProcess(77)
    report = msgspec.structs.replace(bed.report, pid=77, started=True, ready=True, restarts=2)
    bed.runner.adopt(process, report)
    await settle()
    assert (bed.processes, bed.report.ready) == ([], True)
    process.finish(137)
    await bed.clock.step(0.2)
    assert (bed.report.pid, bed.report.restarts) == (100, 3)
    bed.task.cancel()
