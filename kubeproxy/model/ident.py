"""What things are called: a Service, and one port of it.

Identity is plain tuples of strings (their hashes are cached by the interpreter), because every step between
the watch and the kernel looks something up by them.
"""

from typing import NamedTuple

from kubeproxy.model.objects import Protocol

Key = tuple[str, str]
"""(namespace, name) of any namespaced object."""


class ServicePortName(NamedTuple):
    """One port of one Service. The protocol is part of the identity, but not of the printed form."""

    namespace: str
    name: str
    port: str
    protocol: Protocol

    @property
    def key(self) -> Key:
        """The Service that the port belongs to."""
        return self.namespace, self.name

    def __str__(self) -> str:
        """Print as upstream does: `ns/name`, or `ns/name:port` when the port has a name."""
        suffix = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.name}{suffix}"
