"""ipvs mode: virtual servers by netlink, ipsets, and a few fixed rules."""
