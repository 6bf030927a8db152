"""Credentials that a program prints: client-go's exec plugins, client.authentication.k8s.io/v1 and v1beta1.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.
The answer is kept until it expires or the server refuses it. An agent has no terminal, so a plugin is never
interactive. Starting the program is the kernel layer's business and passed in.
"""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from kubeproxy.clock import Clock
from kubeproxy.store.base import Unavailable
from kubeproxy.store.kubeconfig import Cluster, ExecConfig

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
"""How long a plugin may take; it may have to ask a server of its own."""
SPACING_SECONDS = 10.0
"""A plugin is not run more often, whether it fails or its answers are refused."""


class PluginError(Exception):
    """A plugin that could not be run or failed; ``missing`` says that there is no such program."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


RunPlugin = Callable[[Sequence[str], Mapping[str, str], float], Awaitable[bytes]]
"""(argv, variables on top of the environment, time limit) → what it printed. Raises PluginError."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a plugin gives: a token, a client certificate with its key, or both."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: Answer | None = None


class ExecPlugin:
    """Runs one plugin when its answer is needed. Calls may run concurrently; the program does not."""

    def __init__(
        self, config: ExecConfig, cluster: Cluster, authority: bytes, run: RunPlugin, clock: Clock
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._authority = authority
        self._run = run
        self._clock = clock
        self._lock = asyncio.Lock()
        self._answer: Answer | None = None
        self._error = ""
        self._next_run = -SPACING_SECONDS

    async def answer(self) -> Answer:
        """Return credentials that have not expired. Raises `Unavailable` when the plugin gives none."""
        async with self._lock:
            if self._answer is None or self._expired(self._answer):
                if self._error and self._clock.now() < self._next_run:
                    raise Unavailable(self._error)
                await self._renew()
            assert self._answer is not None
            return self._answer

    def expire(self) -> None:
        """The server does not take the answer: run the plugin again, unless it just ran."""
        if self._clock.now() >= self._next_run:
            self._answer = None

    def _expired(self, answer: Answer) -> bool:
        expires = answer.expiration_timestamp
        return expires is not None and self._clock.wall() >= expires.astimezone(UTC).timestamp()

    async def _renew(self) -> None:
        argv = [self._config.command, *(self._config.args or ())]
        variables = {one.name: one.value for one in self._config.env or ()}
        variables["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(self._info()).decode()
        self._next_run = self._clock.now() + SPACING_SECONDS
        try:
            printed = await self._run(argv, variables, TIMEOUT_SECONDS)
            self._answer = self._read(printed)
        except PluginError as error:
            hint = f"; {self._config.install_hint.strip()}" if error.missing and self._config.install_hint else ""
            self._error = f"getting credentials: exec: {error}{hint}"
            raise Unavailable(self._error) from None
        self._error = ""

    def _read(self, printed: bytes) -> Answer:
        name = self._config.command
        try:
            found = msgspec.json.decode(printed, type=_ExecCredential)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PluginError(f"{name}: decoding stdout: {error}") from None
        if found.kind != "ExecCredential" or found.api_version != self._config.api_version:
            raise PluginError(
                f"{name}: plugin returned {found.kind[:60]!r} of version {found.api_version[:60]!r}, "
                f"not an ExecCredential of {self._config.api_version}"
            )
        status = found.status
        if status is None:
            raise PluginError(f"{name}: didn't return a status field")
        if bool(status.client_certificate_data) != bool(status.client_key_data):
            raise PluginError(f"{name}: returned only certificate or key, not both")
        if not status.token and not status.client_key_data:
            raise PluginError(f"{name}: didn't return a token or cert/key pair")
        if self._expired(status):
            raise PluginError(f"{name}: returned credentials that have expired already")
        return status

    def _info(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"interactive": False}
        if self._config.provide_cluster_info:
            spec["cluster"] = self._cluster_info()
        return {"apiVersion": self._config.api_version, "kind": "ExecCredential", "spec": spec}

    def _cluster_info(self) -> dict[str, Any]:
        cluster = self._cluster
        info = {
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
            "certificate-authority-data": base64.b64encode(self._authority).decode(),
            "proxy-url": cluster.proxy_url,
            "config": cluster.exec_config,
        }
        return {name: value for name, value in info.items() if value or name == "config"}
