"""What the administrator wants of the kernel's connection tracking, as one value from the flags to the sysctls."""

from kubeproxy.model.objects import Record


class ConntrackLimits(Record, frozen=True, kw_only=True):
    """The configuration's `conntrack` block: times in seconds, upstream's defaults; 0 leaves a limit as it is."""

    max_per_core: int = 32768
    """Connections per CPU core; 0 also leaves ``min`` without effect."""
    min: int = 131072
    """The fewest connections to make room for, whatever ``max_per_core`` comes to."""
    tcp_established: float = 86400.0
    tcp_close_wait: float = 3600.0
    tcp_be_liberal: bool = False
    """Take TCP segments outside of the window for valid; False leaves the kernel's choice alone."""
    udp_timeout: float = 0.0
    """Of a flow that was never answered."""
    udp_stream_timeout: float = 0.0
    """Of a flow that has gone both ways."""
