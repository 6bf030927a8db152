"""nftables' tables in the kernel, by netlink messages of our own; the `nft` program is not needed."""
