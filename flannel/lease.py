"""A subnet lease, and how it is written in the store: flannel's etcd schema to the byte. PURE.

The key is ``<prefix>/subnets/10.5.34.0-24`` (dual stack: ``10.5.34.0-24&fd00:12:13::-64``), the value JSON:
who holds the subnet (PublicIP: where its packets go) and what its backend has to say (a VXLAN device's MAC).
Other nodes wrote both, so nothing of them is used before it passed `decode_lease`: an address that is none,
or a MAC that is none, must not get near a netlink message.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, NetmaskValueError

import msgspec

_KEY = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,2})(?:&([a-f\d:]{2,39})-(\d{1,3}))?", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)

_LONGEST_V4 = 31
_LONGEST_V6 = 127
MAX_VALUE_BYTES = 4096
"""No backend of flannel's writes a tenth of it; more is hostile."""


class LeaseError(ValueError):
    """A key or value that is no lease; the text says why."""


class LeaseAttrs(msgspec.Struct, frozen=True, kw_only=True):
    """What the holder of a subnet publishes. ``backend_data`` is raw JSON, kept byte for byte."""

    public_ip: IPv4Address
    backend_type: str = ""
    backend_data: bytes = b""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet and its holder. ``id`` is the store's lease, 0 for a reservation; ``revision`` its last write."""

    subnet: IPv4Network
    attrs: LeaseAttrs
    key: str = ""
    id: int = 0
    revision: int = 0


class _Value(msgspec.Struct, rename="pascal"):
    public_ip: str = msgspec.field(name="PublicIP")
    backend_type: str | None = None
    backend_data: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Value)


class VtepData(msgspec.Struct, frozen=True, kw_only=True):
    """The BackendData of a VXLAN lease."""

    vni: int = msgspec.field(name="VNI")
    mac: str = msgspec.field(name="VtepMAC")


_VTEP_DECODER = msgspec.json.Decoder(VtepData)


def subnet_key(subnet: IPv4Network) -> str:
    """Return the last part of a lease's key: ``10.5.34.0-24``."""
    return f"{subnet.network_address}-{subnet.prefixlen}"


def parse_subnet_key(text: str) -> IPv4Network:
    """Parse the last part of a lease's key; of a dual stack key the IPv6 half is checked and left out.

    Raises `LeaseError`.
    """
    found = _KEY.fullmatch(text)
    if found is None:
        raise LeaseError(f"{text[:80]!r} is no subnet key")
    try:
        if int(found[2]) > _LONGEST_V4 or (found[4] is not None and int(found[4]) > _LONGEST_V6):
            raise LeaseError(f"{text!r}: the prefix length is out of range")
        if found[3] is not None:
            IPv6Address(found[3])
        return IPv4Network((found[1], int(found[2])))
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise LeaseError(f"{text!r} is no subnet key: {error}") from None


def encode_attrs(attrs: LeaseAttrs) -> bytes:
    """Return the value of a lease exactly as flannel writes it."""
    fields = [b'"PublicIP":' + msgspec.json.encode(str(attrs.public_ip)), b'"PublicIPv6":null']
    if attrs.backend_type:
        fields.append(b'"BackendType":' + msgspec.json.encode(attrs.backend_type))
    if attrs.backend_data:
        fields.append(b'"BackendData":' + attrs.backend_data)
    return b"{" + b",".join(fields) + b"}"


def decode_attrs(data: bytes) -> LeaseAttrs:
    """Parse the value of a lease. Raises `LeaseError`."""
    if len(data) > MAX_VALUE_BYTES:
        raise LeaseError(f"the value has {len(data)} bytes")
    try:
        raw = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LeaseError(f"the value is no lease: {error}") from None
    return make_attrs(raw.public_ip, raw.backend_type or "", bytes(raw.backend_data))


def make_attrs(public_ip: str, backend_type: str, backend_data: bytes) -> LeaseAttrs:
    """Check what another node says of its lease; ``backend_data`` may be JSON's null. Raises `LeaseError`."""
    return LeaseAttrs(
        public_ip=host_address(public_ip),
        backend_type=backend_type,
        backend_data=b"" if backend_data == b"null" else backend_data,
    )


def host_address(text: str) -> IPv4Address:
    """Return an address that packets may be sent to. Raises `LeaseError`."""
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise LeaseError(f"PublicIP {text[:64]!r} is no IPv4 address") from None
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise LeaseError(f"PublicIP {address} is no address of a host")
    return address


def decode_lease(key: str, value: bytes, *, lease_id: int = 0, revision: int = 0) -> Lease:
    """Decode a key of the store (only what follows the last '/' counts) with its value. Raises `LeaseError`."""
    subnet = parse_subnet_key(key.rpartition("/")[2])
    return Lease(subnet=subnet, attrs=decode_attrs(value), key=key, id=lease_id, revision=revision)


def encode_vtep(vni: int, mac: str) -> bytes:
    """Return the BackendData of a VXLAN lease."""
    return msgspec.json.encode(VtepData(vni=vni, mac=mac))


def decode_vtep(data: bytes) -> VtepData:
    """Parse the BackendData of a VXLAN lease; the MAC is a unicast one. Raises `LeaseError`."""
    try:
        vtep = _VTEP_DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LeaseError(f"BackendData: {error}") from None
    mac = vtep.mac.lower()
    if _MAC.fullmatch(mac) is None or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise LeaseError(f"BackendData: VtepMAC {vtep.mac[:32]!r} is no unicast MAC address")
    return VtepData(vni=vtep.vni, mac=mac)
