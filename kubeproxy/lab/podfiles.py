"""What a pod has on disk: a directory of the kubelet's, named NAMESPACE_NAME.

    pod.json      what an heir of this kubelet needs to take the pod over (`PodRecord`)
    pid           a process of the pod, for `lab exec`
    resolv.conf, hosts, volumes/VOLUME/..., CONTAINER.log, CONTAINER.ready

Every file is written whole and then named, so that neither a killed kubelet nor a reader sees half of one.
"""

import base64
import binascii
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kubeproxy.lab.containerprocess import Identity
from kubeproxy.lab.podspec import ContainerSpec, LabPod, Volume, is_inside

RECORD = "pod.json"
PID = "pid"


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One container, as it was last seen."""

    process: Identity | None
    started_at: str = ""
    restarts: int = 0
    started: bool = False
    ready: bool = False


class PodRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A pod as it was set up, and the processes in it."""

    uid: str
    namespace: str
    name: str
    netns: str
    """Path of its network namespace; "" in the node's own network."""
    address: str
    started_at: str
    resolv_conf: str
    hosts: str
    pid: int = 0
    initialized: bool = False
    containers: dict[str, ContainerRecord] = {}


class MissingSource(Exception):
    """A volume that cannot be given to a container."""


def pods_in(root: Path) -> Iterator[PodRecord]:
    """Yield the records of all pods that a kubelet has set up."""
    for path in sorted((root / "pods").glob(f"*/{RECORD}")):
        yield msgspec.json.decode(path.read_bytes(), type=PodRecord)


class PodDirectory:
    """One pod's directory."""

    def __init__(self, root: Path, namespace: str, name: str) -> None:
        self.path = root / "pods" / f"{namespace}_{name}"

    def read(self) -> PodRecord | None:
        """Return the record of the pod that was set up here, if one was."""
        try:
            return msgspec.json.decode((self.path / RECORD).read_bytes(), type=PodRecord)
        except FileNotFoundError:
            return None

    def write(self, record: PodRecord) -> None:
        """Keep the record, and the process that stands for the pod."""
        self._put(RECORD, msgspec.json.encode(record))
        if record.pid:
            self._put(PID, f"{record.pid}\n".encode())
        else:
            (self.path / PID).unlink(missing_ok=True)

    def write_network_files(self, resolv_conf: str, hosts: str) -> tuple[str, str]:
        """Write the pod's /etc/resolv.conf and /etc/hosts and return their paths."""
        self._put("resolv.conf", resolv_conf.encode())
        self._put("hosts", hosts.encode())
        return str(self.path / "resolv.conf"), str(self.path / "hosts")

    def write_volumes(self, pod: LabPod, maps: Mapping[str, Mapping[str, Any]]) -> None:
        """Make the directories of the volumes that have one; ``maps`` are ConfigMaps by name."""
        for volume in pod.spec.volumes or ():
            directory = self.path / "volumes" / volume.name
            if volume.empty_dir is not None or volume.config_map is not None:
                directory.mkdir(parents=True, exist_ok=True)
            if volume.config_map is not None:
                found = maps.get(volume.config_map.name)
                for path, content in _files(volume, found):
                    target = f"volumes/{volume.name}/{path}"
                    (self.path / target).parent.mkdir(parents=True, exist_ok=True)
                    self._put(target, content)

    def binds(self, pod: LabPod, container: ContainerSpec) -> tuple[tuple[str, str], ...]:
        """Return source and target of the container's mounts. Raises MissingSource."""
        volumes = {volume.name: volume for volume in pod.spec.volumes or ()}
        found = []
        for mount in container.volume_mounts or ():
            volume = volumes.get(mount.name)
            if volume is None:
                raise MissingSource(f"volumeMounts: no volume is named {mount.name!r}")
            source = self._source(volume)
            if mount.sub_path:
                source /= mount.sub_path
            found.append((str(source), mount.mount_path))
        return tuple(found)

    def _source(self, volume: Volume) -> Path:
        if volume.host_path is not None:
            return Path(volume.host_path.path)
        if volume.empty_dir is None and volume.config_map is None:
            raise MissingSource(
                f"volume {volume.name!r}: the lab has configMap, emptyDir and hostPath volumes only"
            )
        return self.path / "volumes" / volume.name

    def log_file(self, container: str) -> Path:
        """Return where a container's output goes."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path / f"{container}.log"

    def ready_file(self, container: str) -> Path:
        """Return the file by which a responder says that its ports are open."""
        return self.path / f"{container}.ready"

    def remove(self) -> None:
        """Forget the pod."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _put(self, name: str, content: bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"{target.name}.new")
        fresh.write_bytes(content)
        fresh.replace(target)


def _files(volume: Volume, found: Mapping[str, Any] | None) -> Iterator[tuple[str, bytes]]:
    assert volume.config_map is not None
    content = config_map_content(found or {})
    chosen = [(item.key, item.path) for item in volume.config_map.items or ()] or [(k, k) for k in content]
    for key, path in chosen:
        if key not in content:
            if volume.config_map.optional:
                continue
            raise MissingSource(f"ConfigMap {volume.config_map.name!r} has no key {key!r}")
        if is_inside(path):
            yield path, content[key]


def config_map_content(found: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a ConfigMap's data and binaryData; what is no base64 is left out."""
    content = {str(key): str(value).encode() for key, value in (found.get("data") or {}).items()}
    for key, value in (found.get("binaryData") or {}).items():
        try:
            content[str(key)] = base64.b64decode(str(value), validate=True)
        except binascii.Error:
            continue
    return content
