"""What a machine shall be, and what its kernel is told."""

from pathlib import Path

import pytest

from kubeproxy.lab.machine import initrd, kernels, qemu, uml
from kubeproxy.lab.machine.spec import MachineError, Nic, Spec, explain_console, last_lines

pytestmark = pytest.mark.unit

MAC = "02:00:00:00:00:01"


def line_of(spec: Spec) -> str:
    return " ".join(uml.command(spec, directory="/tmp/m", line=5, python="/usr/bin/python3", package_root="/src"))


def test_a_machine_has_its_taps_in_the_namespace_they_are_in() -> None:
    line = line_of(Spec(nics=(Nic("t1", MAC), Nic("t2", MAC)), netns="/run/netns/switch", memory="1G"))
    assert line.startswith("nsenter --net=/run/netns/switch ")
    assert f"vec0:transport=tap,ifname=t1,mac={MAC} vec1:transport=tap,ifname=t2" in line
    assert " mem=1G " in line


def test_one_without_a_network_enters_none() -> None:
    line = line_of(Spec())
    assert "nsenter" not in line
    assert "vec0" not in line


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"name": "a b"}, '"a b" is no host name'),
        ({"name": ""}, "is no host name"),
        ({"memory": "lots"}, "write 256M or 1G"),
        ({"nics": (Nic("t1,init=/bin/sh", MAC),)}, "is no TAP,MAC"),
        ({"nics": (Nic("t1", "zz"),)}, "is no TAP,MAC"),
        ({"shared": ("here",)}, "give an absolute path"),
    ],
)
def test_what_would_be_another_word_of_the_kernel_line_is_refused(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(MachineError, match=why):
        Spec(**wrong)  # type: ignore[arg-type]


def test_one_under_qemu_has_its_memory_and_nothing_of_the_host_to_write_to() -> None:
    line = " ".join(
        qemu.command(Spec(kernel="/k", memory="1G"), image="/k/boot/vmlinuz", initrd="/m/initrd", line=5)
    )
    assert " -m 1G " in line
    assert " socket,id=line,fd=5 " in line
    assert "path=/,security_model=none,readonly=on" in line


@pytest.mark.parametrize("more", [{"nics": (Nic("t1", MAC),)}, {"shared": ("/srv",)}])
def test_one_under_qemu_is_refused_what_it_cannot_have(more: dict[str, object]) -> None:
    with pytest.raises(MachineError, match="under QEMU has no network"):
        qemu.command(Spec(kernel="/k", **more), image="/k/boot/vmlinuz", initrd="/m/initrd", line=5)  # type: ignore[arg-type]


def test_what_a_kernels_directory_has_says_how_it_is_run(tmp_path: Path) -> None:
    """One that scripts/build-uml-kernel made runs with its own modules; of none at all is told how to get one."""
    own, nothing = tmp_path / "own", tmp_path / "nothing"
    for each in (own, nothing):
        each.mkdir()
    (own / "linux.uml").touch()
    line = " ".join(kernels.command(Spec(kernel=str(own)), tmp_path, 5))
    assert f" {own}/linux.uml umid=machine " in line
    assert f" KUBEPROXY_MODULES={own}/lib/modules " in line
    with pytest.raises(MachineError, match=r"there is no kernel in .*nothing"):
        kernels.command(Spec(kernel=str(nothing)), tmp_path, 5)


def test_modules_are_inserted_after_those_they_need() -> None:
    dependencies = """\
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko kernel/fs/fscache/fscache.ko
kernel/net/9p/9pnet.ko:
kernel/net/9p/9pnet-virtio.ko: kernel/net/9p/9pnet.ko
kernel/other.ko:
"""
    order = initrd.insertion_order(dependencies, ["built_in", "9pnet_virtio", "9p"])
    names = [file.rpartition("/")[2] for file in order]
    assert names == ["9pnet.ko", "9pnet-virtio.ko", "fscache.ko", "netfs.ko", "9p.ko"]


def unpacked(data: bytes) -> dict[str, bytes]:
    """Read an archive of cpio's format "newc", whose numbers are 8 hexadecimal digits each."""
    found: dict[str, bytes] = {}
    while data:
        assert data.startswith(b"070701")
        numbers = [int(data[start : start + 8], 16) for start in range(6, 110, 8)]
        size, length = numbers[6], numbers[11]
        begin = -(-(110 + length) // 4) * 4
        found[data[110 : 110 + length - 1].decode()] = data[begin : begin + size]
        data = data[begin + -(-size // 4) * 4 :]
    return found


def test_an_initrd_has_its_files_and_the_places_to_mount_on() -> None:
    files = {"init": b"#!/x\n", "odd": b"12345", "even": b"1234"}
    assert unpacked(initrd.archive(files)) == {"dev": b"", "host": b"", **files, "TRAILER!!!": b""}


PANIC = """\
SELinux: something deprecated
Traceback (most recent call last):
OSError: no
Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100
CPU: 0 PID: 1 Comm: python3.11 Not tainted 6.1.176 #1
Stack:
 606944ba 607e7fcd 84c57c60 6067bb96
Call Trace:
 [<606944ba>] ? _printk+0x0/0x94
"""


def test_last_words_are_those_that_mean_something() -> None:
    assert last_lines(PANIC, 2) == [
        "OSError: no",
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
    ]
    assert explain_console(PANIC.splitlines()) == "its kernel panicked"
    assert explain_console(["all is well"]) == ""
