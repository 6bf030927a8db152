"""Times as the API writes them: RFC 3339 in UTC, whole seconds, or microseconds where a Lease wants them. Pure."""

from datetime import UTC, datetime


def timestamp(wall: float) -> str:
    """Return metav1.Time of a Unix time."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(wall: float) -> str:
    """Return metav1.MicroTime of a Unix time."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(text: str | None) -> float | None:
    """Return the Unix time of a timestamp, or None when it is none."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None
