"""How many file descriptors this process may hold: each connection takes one."""

import resource

SPARE = 64
"""Left for what is not a connection; with none, a client that waits to be accepted would keep a loop busy."""


def connections_allowed(wanted: int) -> int:
    """Raise the limit as far as ``wanted`` connections need and it may be raised; return how many it carries."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - SPARE)
