"""The command line of a User-Mode Linux kernel. Pure."""

from kubeproxy.lab.machine.spec import KERNEL_DIRECTORY, Spec

PROGRAM, PACKAGE = "linux.uml", "user-mode-linux"
MODULES = "/usr/lib/uml/modules"
"""Where that package has the kernel's modules, by release."""


def command(
    spec: Spec,
    *,
    directory: str,
    line: int,
    python: str,
    package_root: str,
    root: bool = True,
    program: str = PROGRAM,
    modules: str = MODULES,
) -> tuple[str, ...]:
    """Return what to execute: the kernel with serial line 0 on the descriptor ``line``, our process 1 in it.

    Without ``root`` it gets a user namespace, in which an ordinary user may have a PID namespace.
    The console is standard output; ``package_root`` is where process 1 finds this package.
    ``program`` is the kernel, ``modules`` the directory that has its modules, by release.
    """
    enter = ("nsenter", f"--net={spec.netns}") if spec.netns else ()
    nics = (f"vec{number}:transport=tap,ifname={nic.tap},mac={nic.mac}" for number, nic in enumerate(spec.nics))
    return (
        *enter,
        # The kernel leaves helper processes behind when it is killed; a PID namespace takes them with it.
        *("unshare", *(() if root else ("--map-root-user",)), "--pid", "--fork", "--kill-child=KILL"),
        # As process 1 of that namespace it could not even abort, which is how it ends after a panic.
        *("sh", "-c", '"$@"; exit $?', "sh", program),
        f"umid={spec.name}",
        f"uml_dir={directory}/{KERNEL_DIRECTORY}/",
        f"mem={spec.memory}",
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"),
        *("con=null", "ssl=null", "con0=fd:0,fd:1", f"ssl0=fd:{line}"),
        *nics,
        f"init={python}",
        # A word with "=" that the kernel does not know becomes a variable of process 1.
        f"PYTHONPATH={package_root}",
        f"KUBEPROXY_MODULES={modules}",
        *("--", "-S", "-P", "-m", "kubeproxy.lab.machine.guest"),
    )
