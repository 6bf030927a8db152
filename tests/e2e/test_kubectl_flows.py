"""kubectl's own flows, as scripts: what is typed, what it prints, how it exits. One table row a line.

`{ns}` is the script's namespace. A row is the command, what its output holds (in order) and, when not 0, its exit
status; input follows `<<<`. Nothing runs workloads here: what waits for them is given a status by hand.
"""

import shlex
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.test_kubectl_commands import Cluster, kubectl_binary

pytestmark = pytest.mark.e2e

Row = tuple[str, str] | tuple[str, str, int]

MAP = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":%s}'
READY = (
    '\'{"status":{"observedGeneration":9,"replicas":2,"updatedReplicas":2,"readyReplicas":2,'
    '"availableReplicas":2,"conditions":[{"type":"Available","status":"True"}]}}\''
)
NO_SERVER_SIDE = "Server-side apply not available on the server: (the body of the request was in an unknown format"

SCRIPTS: dict[str, list[Row]] = {
    "apply merges three ways": [
        ("apply -f - <<< " + MAP % '{"a":"1","gone":"1"}', "configmap/m created"),
        ('patch cm m --type=merge -p \'{"data":{"theirs":"1"}}\'', "configmap/m patched"),
        ("apply -f - <<< " + MAP % '{"a":"2"}', "configmap/m configured"),
        ("get cm m -o jsonpath='{.data}'", '{"a":"2","theirs":"1"}'),
        ("apply -f - <<< " + MAP % '{"a":"2"}', "configmap/m unchanged"),
        ("apply view-last-applied cm m -o json", '"a": "2"'),
        ("apply --server-side -f - <<< " + MAP % "{}", NO_SERVER_SIDE, 1),
        ("apply --dry-run=server -f - <<< " + MAP % '{"a":"3"}', "configmap/m configured (server dry run)"),
        ("get cm m -o jsonpath='{.data.a}'", "2"),
    ],
    "diff says what apply would do": [
        ("diff -f - <<< " + MAP % '{"a":"1"}', '+  a: "1"', 1),
        ("apply -f - <<< " + MAP % '{"a":"1"}', "created"),
        ("diff -f - <<< " + MAP % '{"a":"1"}', ""),
        ("diff -f - <<< " + MAP % '{"a":"2"}', '-  a: "1" +  a: "2"', 1),
    ],
    "replace and force": [
        (
            "replace -f - <<< " + MAP % "{}",
            '(NotFound): error when replacing "STDIN": configmaps "m" not found',
            1,
        ),
        ("create -f - <<< " + MAP % '{"a":"1"}', "configmap/m created"),
        (
            "create -f - <<< " + MAP % "{}",
            '(AlreadyExists): error when creating "STDIN": configmaps "m" already',
            1,
        ),
        ("replace -f - <<< " + MAP % '{"b":"1"}', "configmap/m replaced"),
        ("replace --force -f - <<< " + MAP % '{"c":"1"}', "deleted configmap/m replaced"),
        ("get cm m -o jsonpath='{.data}'", '{"c":"1"}'),
    ],
    "every service": [
        ("create service clusterip a --tcp=80:8080", "service/a created"),
        ("create service nodeport b --tcp=80 --node-port=31999", "service/b created"),
        ("create service loadbalancer c --tcp=80", "service/c created"),
        ("create service externalname d --external-name=x.example.com", "service/d created"),
        (
            "get svc",
            "a ClusterIP 10. <none> 80/TCP b NodePort 80:31999/TCP c LoadBalancer <pending> d ExternalName",
        ),
        ("get svc -o custom-columns=N:.metadata.name,T:.spec.type --no-headers", "a ClusterIP b NodePort"),
        ("get svc --field-selector metadata.name!=a -o name", "service/b service/c service/d"),
        ("get svc --field-selector nope=1", "field label not supported: nope", 1),
        ("get svc -l 'app in (a,b),app!=b' -o name", "service/a"),
        ("get svc --chunk-size=1 --sort-by=.metadata.name -o name", "service/a service/b service/c service/d"),
        ("describe svc b", "Type: NodePort Port: 80 TargetPort: 80/TCP NodePort: 80 31999/TCP"),
        ('patch svc a -p \'{"spec":{"type":"NodePort"}}\'', "service/a patched"),
        ('patch svc a -p \'{"spec":{"type":"Odd"}}\'', 'spec.type: Unsupported value: "Odd"', 1),
        ('patch svc a --type=json -p \'[{"op":"test","path":"/spec/type","value":"x"}]\'', "test failed", 1),
        ("delete svc -l app=a", 'service "a" deleted'),
        ("delete svc --all", 'service "b" deleted service "c" deleted service "d" deleted'),
    ],
    "labels and annotations": [
        ("create configmap m", "created"),
        ("label cm m a=1", "labeled"),
        ("label cm m a=2", "'a' already has a value (1), and --overwrite is false", 1),
        ("label cm m a=2 --overwrite", "labeled"),
        ("label cm m -a=bad!", "", 1),
        ("label cm m 'a=not valid' --overwrite", "invalid label value", 1),
        ("label cm m a-", "unlabeled"),
        ("annotate cm m n=o", "annotated"),
        ("get cm m -L n --show-labels", "NAME DATA AGE N LABELS m 0 <none>"),
        ("delete cm m --dry-run=server", "deleted from {ns} namespace (server dry run)"),
        ("delete cm m --wait=true", 'configmap "m" deleted'),
        ("delete cm m", 'configmaps "m" not found', 1),
        ("delete cm m --ignore-not-found", ""),
    ],
    "a deployment's life": [
        ("create deployment web --image=nginx:1 --port=80 --replicas=2", "deployment.apps/web created"),
        ("expose deployment web --target-port=http --dry-run=server -o name", "service/web"),
        ("expose deployment web", "service/web exposed"),
        ("set image deployment/web nginx=nginx:2", "image updated"),
        ("scale deployment web --current-replicas=9 --replicas=1", "Expected replicas to be 9, was 2", 1),
        ("scale deployment web --resource-version=1 --replicas=1", "Expected resource version to be 1, was", 1),
        ("scale deployment web --replicas=3", "deployment.apps/web scaled"),
        ("get deployment web --subresource=scale", "NAME DESIRED AVAILABLE AGE web 3 0"),
        ('patch deployment web --subresource=scale --type=merge -p \'{"spec":{"replicas":2}}\'', "patched"),
        ('patch deployment web -p \'{"spec":{"selector":{"matchLabels":{"a":"b"}}}}\'', "is immutable", 1),
        ("wait --for=condition=Available deploy/web --timeout=1s", "timed out waiting for the condition", 1),
        ("rollout pause deployment/web", "deployment.apps/web paused"),
        ("rollout pause deployment/web", "is already paused", 1),
        ("rollout resume deployment/web", "deployment.apps/web resumed"),
        ("rollout restart deployment/web", "deployment.apps/web restarted"),
        (f"patch deployment web --subresource=status --type=merge -p {READY}", "patched"),
        ("rollout status deployment/web", 'deployment "web" successfully rolled out'),
        ("wait --for=condition=Available deploy/web --timeout=9s", "deployment.apps/web condition met"),
        ("wait --for=jsonpath='{.status.readyReplicas}'=2 deploy/web --timeout=9s", "condition met"),
        ("rollout history deployment/web", "No rollout history found."),
        ("rollout undo deployment/web", 'no rollout history found for deployment "web"', 1),
        ("get all", "service/web ClusterIP deployment.apps/web 2/2 2 2"),
        ("autoscale deployment web --max=3", "failed to create autoscaling/v2 HPA", 1),
        ("delete deployment web --cascade=foreground --timeout=20s", 'deployment.apps "web" deleted'),
    ],
    "pods": [
        ("run p --image=nginx --port=80 --labels=a=b", "pod/p created"),
        ("get pods -o wide", "NAME READY STATUS RESTARTS AGE IP NODE p 0/1 Pending 0"),
        ("get pod p -o go-template='{{.metadata.name}}'", "p"),
        ("logs p", "", 1),
        ("delete pod p --grace-period=0 --force", 'pod "p" force deleted'),
        ("wait --for=delete pod/p --timeout=5s", ""),
        ("get events", "No resources found in {ns} namespace."),
    ],
    "what is not served": [
        ("get secrets", 'the server doesn\'t have a resource type "secrets"', 1),
        ("create job j --image=x", "the server could not find the requested resource", 1),
        ("top nodes", "Metrics API not available", 1),
        ("get --raw /apis/nope/v1", "(NotFound): the server could not find the requested resource", 1),
    ],
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("flows"))
    cluster.start()
    yield cluster
    assert cluster.stop() == 0
    assert "Traceback" not in cluster.log()


def holds_in_order(text: str, parts: list[str]) -> bool:
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_what_it_should(cluster, name):
    space = name.replace(" ", "-").replace("'", "")
    cluster.kubectl("create", "namespace", space)
    for line, expected, *code in SCRIPTS[name]:
        command, _, text = line.partition(" <<< ")
        done = cluster.run(*shlex.split(command), "-n", space, text=text)
        told = done.stdout + done.stderr
        assert done.returncode == (code[0] if code else 0), (line, told)
        words = expected.replace("{ns}", space).split()
        assert holds_in_order(" ".join(told.split()), words), (line, expected, told)
    cluster.kubectl("delete", "namespace", space, "--wait=false")


def test_dependents_go_or_stay_as_cascade_says(cluster):
    ns = ("-n", "default")
    for policy in ("background", "foreground", "orphan"):
        owner, child = f"o-{policy}", f"c-{policy}"
        cluster.kubectl("create", "configmap", owner, *ns)
        uid = cluster.kubectl("get", "cm", owner, "-o", "jsonpath={.metadata.uid}", *ns)
        text = (
            f'{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{child}","ownerReferences":[{{"apiVersion":'
            f'"v1","kind":"ConfigMap","name":"{owner}","uid":"{uid}","blockOwnerDeletion":true}}]}}}}'
        )
        cluster.kubectl("create", "-f", "-", *ns, text=text)
        cluster.kubectl("delete", "cm", owner, f"--cascade={policy}", "--timeout=20s", *ns)
        if policy == "orphan":
            words = ("get", "cm", child, "-o", "jsonpath={.metadata.ownerReferences}", *ns)
            cluster.until(lambda words=words: not cluster.kubectl(*words))
        else:
            cluster.until(lambda gone=child: "NotFound" in cluster.run("get", "cm", gone, *ns).stderr)


def test_get_w_shows_changes_in_every_form(cluster):
    cluster.kubectl("create", "namespace", "watched")
    forms = {
        "wide": ("-o", "wide", "-l", "w=yes"),
        "name": ("-o", "name", "--watch-only"),
        "path": ("-o", "jsonpath={.metadata.name}:{.data.a} "),
        "events": ("--output-watch-events", "--field-selector", "metadata.name=a"),
    }
    expected = {
        "wide": "NAME DATA AGE a 1",
        "name": "configmap/a",
        "path": "a:1",
        "events": "EVENT NAME ADDED a 1",
    }
    running = {
        name: subprocess.Popen(
            [kubectl_binary(), "-s", cluster.url, "get", "cm", "-w", "-n", "watched", *words],
            stdout=subprocess.PIPE,
            text=True,
            env=cluster.environment,
        )
        for name, words in forms.items()
    }
    got = dict.fromkeys(forms, "")

    def read(name: str) -> None:
        for character in iter(lambda: running[name].stdout.read(1), ""):
            got[name] += character

    readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in forms]
    for reader in readers:
        reader.start()
    text = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s","labels":{"w":"yes"}},"data":{"a":"1"}}'
    try:
        numbers = iter(range(100))

        def shown() -> bool:
            # The watch-only one may begin after any one write; what it shows then is the next.
            cluster.kubectl("create", "-f", "-", "-n", "watched", text=text % f"a{next(numbers)}")
            return "configmap/a" in got["name"]

        cluster.kubectl("create", "-f", "-", "-n", "watched", text=text % "a")
        cluster.until(shown)
        cluster.until(
            lambda: all(holds_in_order(got[name], expected[name].split()) for name in forms) or print(got)
        )
    finally:
        for process in running.values():
            process.kill()
            process.wait()
