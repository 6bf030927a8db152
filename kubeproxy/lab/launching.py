"""From a container's spec to its command line and variables, once its pod has a network and its files.

Pure but for the one call that starts the process: what a pod may refer to (ConfigMaps, its own fields) is
handed in. A reference to what is not there is `CannotStart`, with the API's reason, and is tried again.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubeproxy.lab.containerprocess import RESPONDER, Sandbox
from kubeproxy.lab.containers import CannotStart
from kubeproxy.lab.podfiles import config_map_content
from kubeproxy.lab.podspec import ContainerSpec, EnvVar, LabPod, expand, field_value

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

ConfigMaps = Mapping[str, Mapping[str, Any]]


def environment(
    pod: LabPod, container: ContainerSpec, maps: ConfigMaps, *, hostname: str, address: str, host_ip: str
) -> dict[str, str]:
    """Return the container's variables. Raises CannotStart."""
    values = {
        # The project's own programs (clusterdns) can be a pod's command: they stand beside the interpreter.
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "HOME": "/root",
        "HOSTNAME": hostname,
    }
    for variable in container.env or ():
        value = _value(pod, variable, maps, address, host_ip)
        if value is not None:
            values[variable.name] = expand(value, values)
    return values


def _value(pod: LabPod, variable: EnvVar, maps: ConfigMaps, address: str, host_ip: str) -> str | None:
    source = variable.value_from
    if source is None:
        return variable.value or ""
    if source.field_ref is not None:
        path = source.field_ref.field_path
        found = field_value(pod, path, address=address, host_ip=host_ip)
        if found is None:
            raise CannotStart("CreateContainerConfigError", f"env {variable.name}: no field {path!r}")
        return found
    reference = source.config_map_key_ref
    if reference is None:
        raise CannotStart(
            "CreateContainerConfigError", f"env {variable.name}: the lab knows fieldRef and configMapKeyRef only"
        )
    content = config_map_content(maps.get(reference.name) or {})
    if reference.key in content:
        return content[reference.key].decode(errors="replace").replace("\0", "")
    if reference.optional:
        return None
    raise CannotStart(
        "CreateContainerConfigError", f"couldn't find key {reference.key} in ConfigMap {reference.name}"
    )


def command_line(
    pod: LabPod, container: ContainerSpec, variables: Mapping[str, str], *, node: str, ready_file: Path
) -> list[str]:
    """Return what the container runs: its own command, or the responder on its ports."""
    if not container.is_responder:
        words = [*(container.command or ()), *(container.args or ())]
        return [expand(word, variables) for word in words]
    ports = [
        word
        for port in container.ports or ()
        if port.protocol in ("TCP", "UDP")
        for word in ("--port", f"{port.container_port}/{port.protocol}")
    ]
    return [
        *(sys.executable, "-I", "-S", str(RESPONDER), "--pod", pod.metadata.name, "--node", node),
        *("--ready-file", str(ready_file), *ports),
    ]


def inside(sandbox: Sandbox, container: ContainerSpec, argv: list[str]) -> list[str]:
    """Return the command line that runs ``argv`` where the container runs."""
    return sandbox.command(argv, container.working_dir or "")
