"""clusterdns: the names of Services as DNS answers, with CoreDNS's configuration, flags and metrics.

Import name `dns`; dnspython, which has the same import name, must never be installed beside it.
"""

VERSION = "0.1.0"
"""What ``clusterdns -version`` and the build metric say."""
