"""Configuration → what `--write-config-to` writes and `/configz` serves."""

from typing import Any

import msgspec
import yaml

from kubeproxy.config.types import API_VERSION, KIND, Configuration, Duration

CONFIGZ_KEY = "kubeproxy.config.k8s.io"
"""Under which `/configz` has it."""


def as_object(configuration: Configuration) -> dict[str, Any]:
    """Return the v1alpha1 object: JSON's types, durations as Go's strings, empty lists as null, as Go has them."""
    content: dict[str, Any] = msgspec.to_builtins(configuration, enc_hook=_text)
    for name in ("featureGates", "windowsRunAsService"):
        if not content[name]:
            del content[name]
    if not content["logging"]["vmodule"]:
        del content["logging"]["vmodule"]
    return {"apiVersion": API_VERSION, "kind": KIND, **{name: _plain(value) for name, value in content.items()}}


def as_yaml(configuration: Configuration) -> str:
    """Return the complete file, fields in the order of their names."""
    return yaml.safe_dump(as_object(configuration), default_flow_style=False)


def configz(configuration: Configuration) -> dict[str, Any]:
    """Return the body of `/configz`."""
    return {CONFIGZ_KEY: as_object(configuration)}


def _text(value: Any) -> str:
    if isinstance(value, Duration):
        return str(value)
    raise NotImplementedError(type(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value] or None
    return value
