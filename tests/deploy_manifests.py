"""scripts/deploy as kubectl's kustomize renders it, and the parts of it that more than one test looks at."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.kubectl import kubectl_binary

Obj = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "scripts" / "deploy"
BASES = ("kube-proxy", "kube-proxy-nftables", "clusterdns", "clusterdns-node", "kube-flannel")


@cache
def rendered(directory: str) -> list[Obj]:
    """Return every object of one directory's kustomization; not to be changed, others get the same list."""
    argv = [kubectl_binary(), "kustomize", str(DEPLOY / directory)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def named(objects: list[Obj], kind: str, name: str = "") -> Obj:
    """Return the one object of a kind (and name)."""
    (found,) = (obj for obj in objects if obj["kind"] == kind and name in ("", obj["metadata"]["name"]))
    return found


def workload(objects: list[Obj]) -> Obj:
    """Return the one DaemonSet or Deployment."""
    (found,) = (obj for obj in objects if obj["kind"] in ("DaemonSet", "Deployment"))
    return found
