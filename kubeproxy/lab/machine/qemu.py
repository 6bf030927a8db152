"""The command line of a Debian kernel under QEMU. Pure.

Such a kernel has what neither the host's nor User-Mode Linux's may have: IPVS and nftables both. Its instructions
are translated (TCG), ten times as slow and more. KVM is not asked for: a /dev/kvm that opens may still run no
guest, as on a virtual machine without nested virtualization.
"""

from kubeproxy.lab.machine.spec import MachineError, Spec

PROGRAM, PACKAGE = "qemu-system-x86_64", "qemu-system-x86"
ROOT_TAG = "root"
"""By which the guest asks for the host's root."""
PROCESSORS = 2
_TRANSLATED_MIB = 256
"""The most that translated code may take, beyond the guest's memory."""
_KERNEL_LINE = (
    *("console=ttyS1", "quiet", "panic=-1"),  # which ends it, as nothing is to reboot
    # Nobody in there is to be protected from anybody.
    *("nokaslr", "mitigations=off", "init_on_alloc=0", "apparmor=0"),
    # The clock that a program reads without a system call; the others are devices, each reading a trap.
    *("tsc=reliable", "clocksource=tsc"),
)


def command(spec: Spec, *, image: str, initrd: str, line: int) -> tuple[str, ...]:
    """Return what to execute: the kernel ``image``, with serial line 0 on the descriptor ``line``.

    The console is serial line 1, on standard output; the host's root can be had by 9p, to read only.
    Raises MachineError.
    """
    if spec.nics or spec.shared:
        raise MachineError("a machine under QEMU has no network devices or shared directories")
    return (
        PROGRAM,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-cpu", "max", "-smp", str(PROCESSORS), "-m", spec.memory),
        *("-accel", f"tcg,thread=multi,tb-size={_TRANSLATED_MIB}"),
        *("-kernel", image, "-initrd", initrd),
        *("-append", " ".join(_KERNEL_LINE)),
        *("-chardev", f"socket,id=line,fd={line}", "-serial", "chardev:line"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", f"virtio-9p-pci,fsdev=root,mount_tag={ROOT_TAG}"),
    )
