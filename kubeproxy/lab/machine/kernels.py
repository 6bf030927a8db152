"""Which kernel a machine runs, and from which files: finds them and returns the command that boots it."""

import os
import shutil
import sys
from pathlib import Path

import kubeproxy
from kubeproxy.lab.machine import initrd, qemu, uml
from kubeproxy.lab.machine.spec import KERNEL_DIRECTORY, MachineError, Spec

PACKAGE_ROOT = os.fspath(Path(kubeproxy.__file__).parent.parent)


def command(spec: Spec, directory: Path, line: int) -> tuple[str, ...]:
    """Return what to execute, with the guest's line on the descriptor ``line``; see `uml` and `qemu`.

    ``directory`` is the machine's own, for what the kernel needs meanwhile. Raises MachineError.
    """
    own = Path(spec.kernel).resolve() if spec.kernel else None
    if own and not (own / uml.PROGRAM).exists():
        return _qemu(spec, own, directory, line)
    program = os.fspath(own / uml.PROGRAM) if own else _require(uml.PROGRAM, uml.PACKAGE)
    return uml.command(
        spec,
        directory=os.fspath(directory.resolve()),
        line=line,
        python=_python(),
        root=os.geteuid() == 0,
        package_root=PACKAGE_ROOT,
        program=program,
        modules=os.fspath(own / "lib/modules") if own else uml.MODULES,
    )


def _qemu(spec: Spec, kernel: Path, directory: Path, line: int) -> tuple[str, ...]:
    _require(qemu.PROGRAM, qemu.PACKAGE)
    place = directory / KERNEL_DIRECTORY
    place.mkdir(exist_ok=True)
    start = place / "initrd"
    try:
        image = next((kernel / "boot").glob("vmlinuz-*"))
        start.write_bytes(_initrd(kernel, image.name.removeprefix("vmlinuz-")))
    except (StopIteration, OSError) as error:
        raise MachineError(
            f"there is no kernel in {spec.kernel} ({error}); scripts/setup test fetches one"
        ) from None
    return qemu.command(spec, image=os.fspath(image), initrd=os.fspath(start), line=line)


def _initrd(kernel: Path, release: str) -> bytes:
    """Return what the kernel starts from. Raises OSError, MachineError."""
    busybox = Path(_require("busybox", "busybox-static")).read_bytes()
    if b"/ld-linux" in busybox[:4096]:  # where a program names its interpreter
        raise MachineError("this machine's busybox needs libraries; install Debian's package busybox-static")
    modules = kernel / "lib/modules" / release
    files = [
        modules / each for each in initrd.insertion_order((modules / "modules.dep").read_text(), initrd.MODULES)
    ]
    script = initrd.init_script(
        [file.name for file in files],
        python=_python(),
        package_root=PACKAGE_ROOT,
        module_root=os.fspath(modules.parent),
    )
    content = {file.name: file.read_bytes() for file in files}
    return initrd.archive({"init": script.encode(), initrd.BUSYBOX: busybox, **content})


def _require(program: str, package: str) -> str:
    found = shutil.which(program)
    if not found:
        raise MachineError(f"there is no {program} on this machine; install Debian's package {package}")
    return found


def _python() -> str:
    """Return the interpreter itself, not the venv's link: a guest uses the standard library only."""
    return os.path.realpath(sys.executable)
