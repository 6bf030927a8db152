"""Reading kubeconfig files: which server, whom to trust, and who we are.

Source: client-go's tools/clientcmd (the rules) and https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
(the fields). Several files are merged: the first one that names a thing wins. Relative paths are relative to
their file. What is not supported is refused by name. `auth-provider` is gone from client-go too; impersonation
(`as`) is for people who try out permissions, not for agents.
"""

import base64
import binascii
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from kubeproxy.model.objects import Record

EXEC_EXTENSION = "client.authentication.k8s.io/exec"
"""The cluster extension that is passed on to an exec plugin as `spec.cluster.config`."""
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")


class KubeconfigError(ValueError):
    """A kubeconfig that cannot be used; the text names the file, the field and why."""


class _Extension(Record, frozen=True, kw_only=True):
    name: str = ""
    extension: Any = None


class Cluster(Record, frozen=True, kw_only=True, rename="kebab"):
    """An API server and whom it must prove to be."""

    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    extensions: tuple[_Extension, ...] | None = None

    @property
    def exec_config(self) -> Any:
        """What the file wants an exec plugin to know of this cluster."""
        return next((one.extension for one in self.extensions or () if one.name == EXEC_EXTENSION), None)


class _Variable(Record, frozen=True, kw_only=True):
    name: str
    value: str = ""


class ExecConfig(Record, frozen=True, kw_only=True, rename="camel"):
    """A program that prints credentials."""

    command: str
    api_version: str
    args: tuple[str, ...] | None = None
    env: tuple[_Variable, ...] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class User(Record, frozen=True, kw_only=True, rename="kebab"):
    """Who we are."""

    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    username: str = ""
    password: str = ""
    exec_: ExecConfig | None = msgspec.field(default=None, name="exec")
    auth_provider: Any = None
    as_: str = msgspec.field(default="", name="as")
    as_uid: str = ""
    as_groups: tuple[str, ...] | None = None
    as_user_extra: Any = None


class _Context(Record, frozen=True, kw_only=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(Record, frozen=True, kw_only=True):
    name: str
    cluster: Cluster


class _NamedUser(Record, frozen=True, kw_only=True):
    name: str
    user: User


class _NamedContext(Record, frozen=True, kw_only=True):
    name: str
    context: _Context


class _File(Record, frozen=True, kw_only=True, rename="kebab"):
    current_context: str = ""
    clusters: tuple[_NamedCluster, ...] | None = None
    users: tuple[_NamedUser, ...] | None = None
    contexts: tuple[_NamedContext, ...] | None = None


class Selected(Record, frozen=True, kw_only=True):
    """One context, resolved; every path in it is absolute."""

    cluster: Cluster
    user: User
    namespace: str = "default"


def paths_of(text: str) -> tuple[Path, ...]:
    """Split what KUBECONFIG may hold: one path, or several with colons between."""
    return tuple(Path(part) for part in text.split(os.pathsep) if part)


def load(paths: Sequence[Path], *, context: str = "", server: str = "") -> Selected:
    """Read and merge files and resolve a context, the current one unless named; ``server`` overrides its server.

    A path that stands alone must exist; of several, as KUBECONFIG may list, missing ones are passed over.
    Raises `KubeconfigError`. Blocks on the files.
    """
    files = [_read(path) for path in paths if len(paths) == 1 or path.exists()]
    where = ":".join(map(str, paths))
    try:
        return checked(_select(files, context, server))
    except KubeconfigError as error:
        raise KubeconfigError(f"kubeconfig {where}: {error}") from None


def decoded(text: str, field: str) -> bytes:
    """Decode a `-data` field. Raises `KubeconfigError`."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise KubeconfigError(f"{field}: not base64") from None


def _read(path: Path) -> _File:
    try:
        content = yaml.load(path.read_bytes(), yaml.CSafeLoader)
        file = msgspec.convert(content or {}, _File)
    except OSError as error:
        raise KubeconfigError(f"kubeconfig {path}: {error.strerror}") from None
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"kubeconfig {path}: {' '.join(str(error).split())}") from None
    directory = path.absolute().parent
    return msgspec.structs.replace(
        file,
        clusters=tuple(
            msgspec.structs.replace(one, cluster=_absolute_cluster(one.cluster, directory))
            for one in file.clusters or ()
        ),
        users=tuple(
            msgspec.structs.replace(one, user=_absolute_user(one.user, directory)) for one in file.users or ()
        ),
    )


def _absolute(path: str, directory: Path) -> str:
    return str(directory / path) if path else ""


def _absolute_cluster(cluster: Cluster, directory: Path) -> Cluster:
    return msgspec.structs.replace(
        cluster, certificate_authority=_absolute(cluster.certificate_authority, directory)
    )


def _absolute_user(user: User, directory: Path) -> User:
    plugin = user.exec_
    # A command without a slash is looked up on PATH, as in client-go.
    if plugin is not None and "/" in plugin.command:
        plugin = msgspec.structs.replace(plugin, command=_absolute(plugin.command, directory))
    return msgspec.structs.replace(
        user,
        token_file=_absolute(user.token_file, directory),
        client_certificate=_absolute(user.client_certificate, directory),
        client_key=_absolute(user.client_key, directory),
        exec_=plugin,
    )


_Entry = TypeVar("_Entry", _NamedCluster, _NamedUser, _NamedContext)


def _first(entries: Iterable[_Entry], name: str, what: str) -> _Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    raise KubeconfigError(f'{what} "{name}" does not exist')


def _select(files: Sequence[_File], context: str, server: str) -> Selected:
    contexts = [one for file in files for one in file.contexts or ()]
    name = context or next((file.current_context for file in files if file.current_context), "")
    if not name:
        known = ", ".join(one.name for one in contexts) or "none"
        raise KubeconfigError(f"current-context is not set (contexts: {known})")
    chosen = _first(contexts, name, "context").context
    cluster, user = Cluster(), User()
    if chosen.cluster or not server:
        cluster = _first((one for file in files for one in file.clusters or ()), chosen.cluster, "cluster").cluster
    if chosen.user:
        user = _first((one for file in files for one in file.users or ()), chosen.user, "user").user
    if server:
        cluster = msgspec.structs.replace(cluster, server=server)
    if not cluster.server:
        raise KubeconfigError(f'no server found for cluster "{chosen.cluster}"')
    return Selected(cluster=cluster, user=user, namespace=chosen.namespace or "default")


def checked(selected: Selected) -> Selected:
    """Return it. Raises `KubeconfigError` on what cannot work or is not supported, by the field's name."""
    _check_cluster(selected.cluster)
    _check_user(selected.user)
    return selected


def _check_cluster(cluster: Cluster) -> None:
    if not is_server_url(cluster.server):
        raise KubeconfigError(
            f"cluster.server: {cluster.server[:200]!r} is no URL of an API server (https://HOST)"
        )
    trusts = cluster.certificate_authority or cluster.certificate_authority_data
    if cluster.insecure_skip_tls_verify and trusts:
        raise KubeconfigError(
            "cluster.certificate-authority: specifying a root certificates file with the insecure flag is not "
            "allowed"
        )
    if cluster.proxy_url and urlsplit(cluster.proxy_url).scheme != "http":
        raise KubeconfigError(f"cluster.proxy-url: {cluster.proxy_url!r}: only http:// proxies are supported")
    decoded(cluster.certificate_authority_data, "cluster.certificate-authority-data")
    if not cluster.certificate_authority_data:
        _check_readable("cluster.certificate-authority", cluster.certificate_authority)


def is_server_url(text: str) -> bool:
    """Whether a text is the URL of a server: http or https, a host, perhaps a path, nothing more."""
    try:
        parts = urlsplit(text)
        # Reading the port checks it.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and (
            not (parts.query or parts.fragment or parts.username) and text.isprintable() and " " not in text
        )  # fmt: skip
    except ValueError:
        return False


def _check_user(user: User) -> None:
    if user.auth_provider is not None:
        raise KubeconfigError("user.auth-provider: not supported; use exec (client-go has removed it too)")
    if user.as_ or user.as_uid or user.as_groups or user.as_user_extra:
        raise KubeconfigError("user.as: impersonation is not supported")
    methods = {
        "token": user.token or user.token_file, "basicAuth": user.username, "exec": user.exec_,
    }  # fmt: skip
    found = [name for name, value in methods.items() if value]
    if len(found) > 1:
        raise KubeconfigError(f"user: more than one authentication method found: {', '.join(found)}")
    if bool(user.client_certificate or user.client_certificate_data) != bool(
        user.client_key or user.client_key_data
    ):
        raise KubeconfigError("user: client-certificate and client-key must both be given")
    decoded(user.client_certificate_data, "user.client-certificate-data")
    decoded(user.client_key_data, "user.client-key-data")
    if not user.client_certificate_data:
        _check_readable("user.client-certificate", user.client_certificate)
    if not user.client_key_data:
        _check_readable("user.client-key", user.client_key)
    _check_readable("user.tokenFile", user.token_file)
    if user.exec_ is not None:
        _check_exec(user.exec_)


def _check_exec(plugin: ExecConfig) -> None:
    if plugin.api_version not in EXEC_VERSIONS:
        raise KubeconfigError(f'user.exec: exec plugin: invalid apiVersion "{plugin.api_version}"')
    if not plugin.command:
        raise KubeconfigError("user.exec.command: must be given")
    if plugin.api_version == EXEC_VERSIONS[0] and not plugin.interactive_mode:
        raise KubeconfigError("user.exec.interactiveMode: must be specified to use exec authentication")
    if plugin.interactive_mode not in (*INTERACTIVE_MODES, ""):
        raise KubeconfigError(
            f'user.exec.interactiveMode: "{plugin.interactive_mode}" is none of Never, IfAvailable, Always'
        )
    if plugin.interactive_mode == "Always":
        raise KubeconfigError("user.exec: exec plugin cannot support interactive mode: an agent has no terminal")


def _check_readable(field: str, path: str) -> None:
    try:
        if path:
            Path(path).read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{field}: {path}: {error.strerror}") from None
