"""The TLS context that the server answers with; new files on disk are taken up without a restart.

A context may be given a new certificate while it serves: handshakes from then on show it, connections that stand
are left alone. A certificate that cannot be used leaves the last good one in force.
"""

import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from kubeproxy.apiserver.pki import changes
from kubeproxy.store.etcd_access import read_file

log = logging.getLogger(__name__)


class ServingTls:
    """A certificate with its key, and the CAs whose client certificates count."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_cas: Sequence[Path] = (),
        *,
        renew: Callable[[], None] | None = None,
    ) -> None:
        """Read the files. ``renew`` makes a certificate anew that nears its end. Raises ValueError."""
        self._files = (certificate, key)
        self._client_cas = tuple(client_cas)
        self._renew = renew
        self._changed = changes([*self._files, *self._client_cas])
        self.context = _context()
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        named = [("serving certificate", certificate), ("its key", key)]
        for name, path in named + [("client CA", path) for path in self._client_cas]:
            read_file(name, str(path))  # OpenSSL's errors name no file
        try:
            # A password of "": an encrypted key is an error here and no question on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            raise ValueError(
                f"serving certificate {certificate} with key {key}: {error.reason or error}"
            ) from None
        for path in self._client_cas:
            try:
                context.load_verify_locations(path)
            except ssl.SSLError as error:
                raise ValueError(f"client CA {path}: no PEM certificates ({error.reason})") from None
            context.verify_mode = ssl.CERT_OPTIONAL

    def reload(self) -> None:
        """Take up what has changed on disk. A client CA that was taken away counts until the next start."""
        try:
            if self._renew is not None:
                self._renew()
            if self._changed():
                self._load(_context())  # a bad file must not spoil the context that serves
                self._load(self.context)
                log.info("the serving certificate was read again from %s", self._files[0])
        except (OSError, ValueError) as error:
            log.error("the certificates stay as they were until this is mended: %s", error)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context
