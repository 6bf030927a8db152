"""Who may use a port without credentials: programs of this machine, not a page that its browser shows. Pure.

A browser sends a foreign page's requests to loopback too: with the page's Origin, and, where the page's own name
was made to resolve to 127.0.0.1 (DNS rebinding), with that name as Host.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit


def foreign_name(host: str, origin: str | None) -> str | None:
    """Return which of a request's Host and Origin is not of this machine, None when none is."""
    for text, url in ((host, f"//{host}"), (origin, origin)):
        if url is not None and not _is_local(url):
            return text
    return None


def _is_local(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
