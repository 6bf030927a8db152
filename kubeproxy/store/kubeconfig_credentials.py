"""The identity that a kubeconfig's user has now: headers and a TLS context, followed as files and plugins change.

Files are read anew for every request: a request is rare, a read costs 20 µs, and so nothing that rotates is ever
older than the last request. What cannot be read or does not fit together (a rotation caught half-way) leaves the
last good value in use, and says so once.
"""

import base64
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from kubeproxy.clock import Clock
from kubeproxy.store.base import Unavailable
from kubeproxy.store.credentials import Access, Identity
from kubeproxy.store.exec_plugin import Answer, ExecPlugin, RunPlugin
from kubeproxy.store.kubeconfig import Cluster, KubeconfigError, Selected, User, decoded
from kubeproxy.store.tls import Material, client_context

log = logging.getLogger(__name__)

IN_CLUSTER_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its ServiceAccount's token and the cluster's authority."""


def _unchecked(_: bytes) -> str:
    return ""


class Followed:
    """Bytes that a field gives, or a file that may change."""

    def __init__(self, field: str, data: bytes, path: str, check: Callable[[bytes], str] = _unchecked) -> None:
        self._field = field
        self._path = Path(path) if path and not data else None
        self._last = data
        self._check = check
        self._complained = False

    def read(self) -> bytes:
        """Return what is there now, or was last. Raises `Unavailable` when there never was anything."""
        if self._path is None:
            return self._last
        try:
            data = self._path.read_bytes()
            trouble = self._check(data)
        except OSError as error:
            trouble = error.strerror or str(error)
        if not trouble:
            self._last, self._complained = data, False
        elif not self._last:
            raise Unavailable(f"{self._field} {self._path}: {trouble}")
        elif not self._complained:
            log.error("%s %s: %s; the last good one stays in use", self._field, self._path, trouble)
            self._complained = True
        return self._last


class _Contexts:
    """Makes a TLS context when its material changes; material that is unusable leaves the last one in use."""

    def __init__(self) -> None:
        self._tried: Material | None = None
        self._context: ssl.SSLContext | None = None
        self._error = ""

    def of(self, material: Material) -> ssl.SSLContext:
        if material != self._tried:
            self._tried, self._error = material, ""
            try:
                self._context = client_context(material)
            except (ValueError, ssl.SSLError) as error:
                self._error = f"the TLS certificate, key or authority cannot be used: {error}"
                if self._context is not None:
                    log.error("%s; the last good ones stay in use", self._error)
        if self._context is None:
            raise Unavailable(self._error)
        return self._context


class KubeconfigCredentials:
    """See `Credentials`."""

    def __init__(self, selected: Selected, run: RunPlugin, clock: Clock) -> None:
        cluster, user = selected.cluster, selected.user
        self._cluster = cluster
        self._user = user
        self._authority = _followed(
            "certificate-authority", cluster.certificate_authority_data, cluster.certificate_authority
        )
        self._certificate = _followed("client-certificate", user.client_certificate_data, user.client_certificate)
        self._key = _followed("client-key", user.client_key_data, user.client_key)
        self._token = Followed("tokenFile", b"", user.token_file, _token_trouble)
        self._plugin: ExecPlugin | None = None
        if user.exec_ is not None:
            self._plugin = ExecPlugin(user.exec_, cluster, self._authority.read(), run, clock)
        self._contexts = _Contexts()

    async def current(self) -> Identity:
        """See `Credentials.current`."""
        answer = await self._plugin.answer() if self._plugin else Answer()
        tls = self._contexts.of(self._material(answer)) if self._cluster.server.startswith("https:") else None
        return Identity(self._headers(answer), tls)

    async def refused(self, identity: Identity) -> bool:
        """See `Credentials.refused`: read everything again, and have a plugin think again."""
        if self._plugin is not None and await self.current() == identity:
            self._plugin.expire()
        return await self.current() != identity

    def _headers(self, answer: Answer) -> dict[str, str]:
        user = self._user
        if user.username:
            pair = base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        token = answer.token or self._file_token() or user.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _file_token(self) -> str:
        try:
            return self._token.read().decode("ascii").strip()
        except Unavailable:
            if self._user.token:
                return ""
            raise

    def _material(self, answer: Answer) -> Material:
        given = bool(answer.client_key_data)
        return Material(
            authority=self._authority.read(),
            insecure=self._cluster.insecure_skip_tls_verify,
            certificate=answer.client_certificate_data.encode() if given else self._certificate.read(),
            key=answer.client_key_data.encode() if given else self._key.read(),
        )


def _followed(field: str, data: str, path: str) -> Followed:
    return Followed(field, decoded(data, field), path)


def _token_trouble(data: bytes) -> str:
    text = data.strip()
    if not text:
        return "empty"
    return "" if all(0x21 <= byte < 0x7F for byte in text) else "not a token: it has spaces or control characters"


def access_of(selected: Selected, run: RunPlugin, clock: Clock) -> Access:
    """Return how to reach the server that a kubeconfig selects. Raises `KubeconfigError`; blocks on files."""
    try:
        credentials = KubeconfigCredentials(selected, run, clock)
    except Unavailable as error:
        raise KubeconfigError(str(error)) from None
    return Access(
        server=selected.cluster.server.rstrip("/"),
        credentials=credentials,
        server_name=selected.cluster.tls_server_name,
        proxy=selected.cluster.proxy_url,
        namespace=selected.namespace,
    )


def in_cluster(host: str, port: str, directory: Path = IN_CLUSTER_DIRECTORY) -> Selected:
    """Return what a pod knows of its cluster (client-go's rest.InClusterConfig).

    ``host`` and ``port`` are KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT. Raises `KubeconfigError`
    without a token.
    """
    authority, token = directory / "ca.crt", directory / "token"
    try:
        token.read_bytes()
        namespace = directory / "namespace"
        name = namespace.read_text("utf-8").strip() if namespace.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"in-cluster configuration: {error}") from None
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    if not authority.exists():
        log.error(
            "in-cluster configuration: expected the cluster's authority in %s; trusting the system's", authority
        )
    return Selected(
        cluster=Cluster(server=server, certificate_authority=str(authority) if authority.exists() else ""),
        user=User(token_file=str(token)),
        namespace=name or "default",
    )
