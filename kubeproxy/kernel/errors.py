"""What all refusals of the kernel have in common. Pure."""


class KernelError(Exception):
    """Base of what the kernel, or a program that speaks to it, refuses."""
