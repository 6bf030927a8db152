"""Where a packet goes to, as digits: what `tree.py` sorts and splits by. Pure.

A place is the destination's address in hexadecimal, a letter for the protocol, and the port in hexadecimal:
`0A600001T0050` is 10.96.0.1, TCP, port 80. A node port has no address: `T7530` is TCP, port 30000. The beginning
of a place is a network, or one address and a range of ports, and so something that a rule can match.
"""

from ipaddress import IPv4Address, IPv6Address

from kubeproxy.dataplane.iptables import names
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

PORT_DIGITS = 5
"""The protocol's letter and the port."""

_LETTERS = {protocol: protocol.value[0] for protocol in Protocol}
_PROTOCOLS = {letter: names.LOWER[protocol] for protocol, letter in _LETTERS.items()}
_OCTETS = {str(octet): f"{octet:02X}" for octet in range(256)}


def address_digits(address: str) -> str:
    """Return the digits of a canonical address. Raises ValueError when it is none."""
    if ":" in address:
        return f"{int(IPv6Address(address)):032X}"
    try:
        a, b, c, d = address.split(".")
        return _OCTETS[a] + _OCTETS[b] + _OCTETS[c] + _OCTETS[d]
    except KeyError as error:
        raise ValueError(f"{address[:80]!r} is no address") from error


def port_digits(protocol: Protocol, port: int) -> str:
    """Return the digits of a port."""
    return f"{_LETTERS[protocol]}{port:04X}"


def match(prefix: str, family: Family, *, by_port: bool) -> str:
    """Return the match for packets to every place that begins so; ``by_port`` places have no address."""
    digits = 0 if by_port else family.host_bits // 4
    address, protocol, port = prefix[:digits], prefix[digits : digits + 1], prefix[digits + 1 :]
    found = ""
    if address:
        number = int(address.ljust(digits, "0"), 16)
        first = IPv4Address(number) if family is Family.V4 else IPv6Address(number)
        found = f"-d {first}/{4 * len(address)} "
    if protocol:
        name = _PROTOCOLS[protocol]
        found += f"-p {name} "
        if port:
            low, high = (int(port.ljust(4, fill), 16) for fill in "0F")
            found += f"-m {name} --dport {low if low == high else f'{low}:{high}'} "
    return found
