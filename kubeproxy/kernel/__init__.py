"""The only door to the kernel: programs are started and netlink sockets opened here and nowhere else.

Each seam is a Protocol with a real implementation and, where tests need one, a fake that is a model and not
a list of expected calls.
"""
