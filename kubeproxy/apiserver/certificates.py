"""X.509 certificates: a CA, serving certificates and client certificates, as `kubeadm` makes them.

Pure but for the randomness of keys: times are handed in (seconds since the Unix epoch), files are the business of
`kubeproxy.apiserver.pki`. Keys are ECDSA P-256: made in a millisecond, where RSA 2048 takes a hundred.
A client's CN is its user name and each O a group (upstream's x509 authentication).
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_YEARS = 10
CERTIFICATE_YEARS = 1
"""kubeadm's lifetimes."""
_YEAR = timedelta(days=365)
_CLOCK_SKEW = timedelta(minutes=5)
"""A certificate is valid from a little earlier, for peers whose clock is behind."""
_RENEW_SHARE = 0.2
"""What is left of the lifetime when a certificate is made anew."""
MAX_SUBJECT = 64
"""X.520's upper bound of a common or organization name, which OpenSSL holds to."""


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_ca(name: str, now: float) -> KeyPair:
    """Return a new CA that signs its own certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(subject, subject, key.public_key(), now, CA_YEARS * _YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue_serving(ca: KeyPair, name: str, names: Iterable[str], now: float) -> KeyPair:
    """Return a serving certificate for host names and IP addresses."""
    alternatives = x509.SubjectAlternativeName([_general_name(each) for each in names])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return _issue(ca, subject, ExtendedKeyUsageOID.SERVER_AUTH, now, alternatives)


def issue_client(ca: KeyPair, user: str, groups: Iterable[str], now: float) -> KeyPair:
    """Return a client certificate that says who its holder is. Raises ValueError for a name that none can have."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _checked(group)) for group in groups]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, _checked(user)))
    return _issue(ca, x509.Name(attributes), ExtendedKeyUsageOID.CLIENT_AUTH, now, None)


def serves(pair: KeyPair, ca: KeyPair, names: Iterable[str], now: float) -> bool:
    """Say whether a serving certificate is signed by this CA, has every name, and need not be renewed yet."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.certificate))
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # not ours: whatever is wrong with it, it is made anew
        return False
    return {_general_name(each) for each in names} <= set(held) and not is_due(pair, now)


def is_due(pair: KeyPair, now: float) -> bool:
    """Say whether a certificate is so near its end that it is to be made anew."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return now < begin or end - now < _RENEW_SHARE * (end - begin)


def belongs(pair: KeyPair) -> bool:
    """Say whether the key is the certificate's. Raises ValueError for what is neither."""
    key = serialization.load_pem_private_key(pair.key, password=None)
    return x509.load_pem_x509_certificate(pair.certificate).public_key() == key.public_key()


def _checked(name: str) -> str:
    if not name or len(name) > MAX_SUBJECT or not name.isprintable():
        raise ValueError(f"a user or group name has 1 to {MAX_SUBJECT} printable characters: {name[:80]!r}")
    return name


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _issue(
    ca: KeyPair,
    subject: x509.Name,
    usage: x509.ObjectIdentifier,
    now: float,
    alternatives: x509.SubjectAlternativeName | None,
) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    signer = serialization.load_pem_private_key(ca.key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the CA's key is no ECDSA key: it was not made here")
    builder = (
        _builder(subject, issuer.subject, key.public_key(), now, CERTIFICATE_YEARS * _YEAR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if alternatives is not None:
        builder = builder.add_extension(alternatives, critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, lifetime: timedelta
) -> x509.CertificateBuilder:
    begin = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _CLOCK_SKEW)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(certificate=certificate.public_bytes(encoding), key=private)
