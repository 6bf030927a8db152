"""The names that Kubernetes gives things: RFC 1123's grammar, and the alphabet of those that a machine makes up.

Everything that decodes objects, files or command lines checks names here, so that no name can hold anything but
letters, digits, dots and dashes wherever it goes on to. (The API server's refusals quote upstream's own regular
expressions: `apiserver/names.py`.)
"""

import re

SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""What generateName and pod-template-hash draw from (k8s.io/apimachinery/pkg/util/rand): without vowels."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


def is_label(text: str) -> bool:
    """Return whether a text is a DNS label of lower-case letters, digits and dashes, at most 63."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Return whether a text is made as a DNS subdomain is: labels' characters and dots, at most 253."""
    return _SUBDOMAIN.fullmatch(text) is not None
