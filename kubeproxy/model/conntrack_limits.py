"""What the administrator wants of the kernel's connection tracking, as one value from the flags to the sysctls."""

from kubeproxy.model.objects import Record

_PREFIX = "net/netfilter/nf_conntrack_"
MAX = f"{_PREFIX}max"
"""How many connections may be tracked."""

MOST = 1 << 20
"""However many CPUs: 320 bytes each, and more are a matter for an administrator (upstream's cap)."""


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

    def entries(self, cpus: int) -> int:
        """Return how many connections there is to be room for, 0 for as many as now."""
        if self.max_per_core <= 0:
            return 0
        scaled = self.max_per_core * cpus
        return MOST if scaled > MOST else max(scaled, self.min)

    def sysctls(self) -> dict[str, str]:
        """Return the parameters of a network namespace that are to be set."""
        timeouts = {
            "tcp_timeout_established": self.tcp_established,
            "tcp_timeout_close_wait": self.tcp_close_wait,
            "udp_timeout": self.udp_timeout,
            "udp_timeout_stream": self.udp_stream_timeout,
        }
        found = {_PREFIX + name: str(int(seconds)) for name, seconds in timeouts.items() if seconds >= 1}
        if self.tcp_be_liberal:
            found[f"{_PREFIX}tcp_be_liberal"] = "1"
        return found
