"""TLS contexts of a client, from PEM in memory, as Go's client would verify.

A certificate is believed when it leads to any certificate given as authority, be it an intermediate or the leaf
itself, and its subjectAltName, never its common name, is the server's name. Private keys never touch the disk.
"""

import os
import ssl

import msgspec


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """PEM texts; b"" is none."""

    authority: bytes = b""
    """Whom to trust; none is the system's authorities."""
    insecure: bool = False
    certificate: bytes = b""
    key: bytes = b""


def client_context(material: Material) -> ssl.SSLContext:
    """Make a context. Raises ssl.SSLError or ValueError on what is no PEM, or a key of another certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if material.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif material.authority:
        context.load_verify_locations(cadata=material.authority.decode("ascii", "replace"))
    else:
        context.load_default_certs()
    if material.certificate:
        _load_pair(context, material.certificate, material.key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL's binding reads files only, so it is given one that exists in memory."""
    descriptor = os.memfd_create("client-certificate")
    try:
        os.write(descriptor, certificate.rstrip() + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    finally:
        os.close(descriptor)


def _no_password() -> str:
    raise ValueError("the client key is encrypted; nobody is here to type its password")
