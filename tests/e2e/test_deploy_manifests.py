"""The manifests and the image recipe of scripts/deploy: every field exists, every reference leads somewhere."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from dns.plugins import SETUP
from flannel.netconf import parse_netconf
from kubeproxy import options
from tests.deploy_manifests import BASES, DEPLOY, ROOT, Obj, named, rendered, workload

pytestmark = pytest.mark.e2e

EXTERNAL_CONFIG_MAPS = {"kube-proxy"}
"""What kubeadm made; kubeconfig.example.yaml makes it for others."""


@pytest.fixture(scope="module")
def objects() -> dict[str, list[Obj]]:
    return {base: rendered(base) for base in BASES}


def problems(kind: str, value: Any, path: str) -> list[str]:
    """Return what the official client's models do not know or do not take: `kind` is a type name of theirs."""
    listed = re.fullmatch(r"list\[(.*)\]", kind, re.I)
    if listed:
        if not isinstance(value, list):
            return [f"{path}: is no list"]
        return [one for index, item in enumerate(value) for one in problems(listed[1], item, f"{path}[{index}]")]
    mapped = re.fullmatch(r"dict[\[(]str, (.*)[\])]", kind, re.I)
    if mapped:
        return [one for key, item in value.items() for one in problems(mapped[1], item, f"{path}.{key}")]
    if not hasattr(client, kind):
        scalar = {"str": str, "bool": bool, "int": int, "object": (str, int)}[kind]
        return [] if isinstance(value, scalar) else [f"{path}: {value!r} is no {kind}"]
    model = getattr(client, kind)
    fields = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    if not isinstance(value, dict):
        return [f"{path}: is no object"]
    unknown = [f"{path}.{key}: unknown field of {kind}" for key in value if key not in fields]
    known = ((key, item) for key, item in value.items() if key in fields)
    return unknown + [one for key, item in known for one in problems(fields[key], item, f"{path}.{key}")]


def manifest_files() -> list[Path]:
    return sorted(path for path in DEPLOY.rglob("*.yaml") if path.name != "kustomization.yaml")


def test_every_field_is_one_that_the_official_models_know(objects):
    everything = [obj for base in BASES for obj in objects[base]]
    everything += [obj for path in manifest_files() for obj in yaml.safe_load_all(path.read_text())]
    assert len(everything) > 30
    wrong = [one for obj in everything for one in problems(f"V1{obj['kind']}", obj, obj["kind"])]
    assert wrong == []
    for obj in everything:
        if obj["kind"] != "Service":  # a kustomize patch need not be whole
            client.ApiClient().deserialize(json.dumps(obj), f"V1{obj['kind']}", "application/json")


def test_what_is_wrong_is_found():
    body = {"spec": {"replicas": "2", "selektor": {}, "template": {"spec": {"containers": [{"naem": "x"}]}}}}
    assert problems("V1Deployment", body, "D") == [
        "D.spec.selektor: unknown field of V1DeploymentSpec",
        "D.spec.replicas: '2' is no int",
        "D.spec.template.spec.containers[0].naem: unknown field of V1Container",
    ]


def test_the_whole_is_its_parts_and_all_have_one_image():
    whole = rendered(".")
    parts = [obj for base in ("kube-proxy", "clusterdns", "kube-flannel") for obj in rendered(base)]
    key = lambda obj: (obj["kind"], obj["metadata"]["name"])  # noqa: E731
    assert sorted(whole, key=key) == sorted(parts, key=key)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"image: (\S+)", yaml.safe_dump_all(whole))) == {f"kubeproxy:{version}"}
    assert f"ARG VERSION={version}\n" in (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize("base", BASES)
def test_references_lead_somewhere(objects, base):
    found = objects[base]
    body = workload(found)
    template = body["spec"]["template"]
    pod = template["spec"]
    namespace = body["metadata"]["namespace"]
    assert body["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    account = named(found, "ServiceAccount", pod["serviceAccountName"])
    assert account["metadata"]["namespace"] == namespace
    binding = named(found, "ClusterRoleBinding")
    subject = {"kind": "ServiceAccount", "name": pod["serviceAccountName"], "namespace": namespace}
    assert binding["subjects"] == [subject]
    roles = {obj["metadata"]["name"] for obj in found if obj["kind"] == "ClusterRole"}
    assert binding["roleRef"]["name"] in roles | {"system:node-proxier"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for volume in volumes.values():
        check_config_map(found, volume.get("configMap"), namespace)
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
    used = [
        mount["name"]
        for one in (*pod.get("initContainers", ()), *pod["containers"])
        for mount in one["volumeMounts"]
    ]
    assert set(used) == volumes.keys()
    for service in (obj for obj in found if obj["kind"] == "Service"):
        check_service(service, template, namespace)


def check_config_map(objects: list[Obj], source: Obj | None, namespace: str) -> None:
    if source is None or source["name"] in EXTERNAL_CONFIG_MAPS:
        return
    config = named(objects, "ConfigMap", source["name"])
    assert config["metadata"]["namespace"] == namespace
    assert {item["key"] for item in source.get("items", ())} <= config["data"].keys()


def check_service(service: Obj, template: Obj, namespace: str) -> None:
    assert service["metadata"]["namespace"] == namespace
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ports = template["spec"]["containers"][0]["ports"]
    opened = {(port["containerPort"], port["protocol"]) for port in ports}
    assert {(port["targetPort"], port["protocol"]) for port in service["spec"]["ports"]} <= opened


@pytest.mark.parametrize("base", BASES)
def test_what_runs_on_nodes_is_scheduled_and_probed_as_such(objects, base):
    body = workload(objects[base])
    pod = body["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    named_ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in (container["livenessProbe"], container["readinessProbe"]):
        assert probe["httpGet"]["port"] in named_ports
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["priorityClassName"].startswith("system-")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    if body["kind"] == "DaemonSet":
        assert pod["hostNetwork"] is True
        assert pod["priorityClassName"] == "system-node-critical"
        assert {"operator": "Exists"} in pod["tolerations"]
    else:
        assert pod["securityContext"]["runAsNonRoot"] is True


def test_ports_are_what_the_programs_answer_on(objects):
    proxy = workload(objects["kube-proxy"])["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "healthz", "containerPort": options.HEALTHZ_PORT, "protocol": "TCP"} in proxy["ports"]
    for base in ("clusterdns", "clusterdns-node"):
        corefile = named(objects[base], "ConfigMap")["data"]["Corefile"]
        directives = set(re.findall(r"^    (\w+)", corefile, re.M))
        assert directives <= SETUP.keys()
        opened = {
            port["containerPort"]
            for port in workload(objects[base])["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        shown = {int(port) for port in re.findall(r":(\d+)", corefile)}
        assert shown <= opened


def test_flannels_configuration_is_one(objects):
    data = named(objects["kube-flannel"], "ConfigMap")["data"]
    assert parse_netconf(data["net-conf.json"].encode()).backend.type == "vxlan"
    assert [plugin["type"] for plugin in json.loads(data["cni-conf.json"])["plugins"]] == ["flannel", "portmap"]
    proxy = workload(objects["kube-proxy"])["spec"]["template"]["spec"]["containers"][0]
    assert f"--cluster-cidr={json.loads(data['net-conf.json'])['Network']}" in proxy["command"]


def test_the_overlay_that_the_page_shows_sets_image_and_network(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "README.md").read_text(), re.S)
    (tmp_path / "kustomization.yaml").write_text(
        text.replace("../scripts/deploy", os.path.relpath(DEPLOY, tmp_path))
    )
    body = workload(rendered(str(tmp_path)))
    container = body["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example/kubeproxy:0.1.0"
    before = workload(rendered("kube-proxy"))["spec"]["template"]["spec"]["containers"][0]["command"]
    assert container["command"] == [*before[:-1], "--cluster-cidr=10.1.0.0/16"]


# --- the image ---------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line.strip()]


def test_the_recipe_copies_what_is_there_and_nothing_else():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for word in shlex.split(rest)[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line == "*"}


def test_the_recipe_is_locked_small_and_without_root():
    steps = instructions()
    assert {name for name, _ in steps} <= {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "LABEL", "ENV", "USER", "CMD"}
    assert [rest for name, rest in steps if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    assert [rest for name, rest in steps if name == "USER"] == ["65532:65532"]
    for rest in (rest for name, rest in steps if name == "RUN"):
        subprocess.run(["bash", "-n", "-c", rest], check=True, timeout=10)
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert rest.index("rm -rf /var/lib/apt/lists/*") > rest.index("apt-get install")
        if "pip install" in rest:
            assert "--require-hashes" in rest or "--no-deps --no-build-isolation" in rest
    final = " ".join(rest for name, rest in steps[[name for name, _ in steps].index("FROM", 2) :] if name == "RUN")
    assert {"iptables", "kmod", "python3"} <= set(final.split())
    programs = {
        workload(rendered(base))["spec"]["template"]["spec"]["containers"][0]["command"][0] for base in BASES
    }
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert programs == scripts.keys()
