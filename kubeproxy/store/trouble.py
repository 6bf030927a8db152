"""What went wrong between us and a server, in words for a log and a status: the cause, not a library's insides.

aiohttp's own texts hold objects' addresses, which differ from one try to the next, and errno beside prose.
"""

import os
import ssl

import aiohttp

_NOT_TLS = "WRONG_VERSION_NUMBER"


def in_words(error: BaseException) -> str:
    """Return the cause of a request's failure, without the address: its caller names that."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _tls(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _system(error.os_error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return _system(error)
    return str(error) or type(error).__name__


def _system(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    known = error.errno or 0
    return os.strerror(known) if known > 0 else error.strerror or str(error) or type(error).__name__


def _tls(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    reason = getattr(error, "reason", None)
    if reason == _NOT_TLS:
        return "the server does not speak TLS"
    return f"TLS: {reason or error}"
