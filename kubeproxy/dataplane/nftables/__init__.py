"""ServiceStates → nf_tables by netlink: few chains, large maps; README.md has the picture."""
