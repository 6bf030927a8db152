"""What a kernel under QEMU starts from: modules, and a script that finds its root, as a cpio archive. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kubeproxy.lab.machine.qemu import ROOT_TAG

BUSYBOX = "busybox"
MODULES = ("virtio_pci", "9pnet_virtio", "9p")
"""Those without which there is no root."""
_DIRECTORY, _FILE = 0o040755, 0o100755
_ALIGNMENT = 4


def init_script(modules: Sequence[str], *, python: str, package_root: str, module_root: str) -> str:
    """Return the first process's script: it inserts ``modules`` in this order, and becomes our process 1.

    A loose cache is safe as long as the host does not change what the guest has read.
    """
    return f"""#!/{BUSYBOX} sh
b=/{BUSYBOX}
for module in {" ".join(modules)}; do $b insmod /$module || exit 1; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 {ROOT_TAG} /host || exit 1
$b mount -t devtmpfs dev /host/dev || exit 1
export PYTHONPATH={package_root} KUBEPROXY_MODULES={module_root}
exec $b switch_root /host {python} -S -P -m kubeproxy.lab.machine.guest
"""


def insertion_order(dependencies: str, wanted: Sequence[str]) -> list[str]:
    """Return the files of ``wanted`` modules and all they need, each after what it needs.

    ``dependencies`` is the text of modules.dep(5), whose lines say "FILE: NEEDED-LAST ... NEEDED-FIRST". A module
    that is not in there is taken to be part of the kernel.
    """
    needed: dict[str, list[str]] = {}
    for line in dependencies.splitlines():
        file, _, others = line.partition(":")
        needed[_module(file)] = [*reversed(others.split()), file]
    return list(dict.fromkeys(file for name in wanted for file in needed.get(name, ())))


def _module(file: str) -> str:
    return re.sub(r"\.ko.*", "", file.rpartition("/")[2]).replace("-", "_")


class _Entry(NamedTuple):
    name: str
    mode: int
    content: bytes = b""

    def encoded(self, inode: int) -> bytes:
        name = self.name.encode() + b"\0"
        # cpio(5), "newc": inode, mode, uid, gid, links, mtime, size, 4 device numbers, size of name, checksum.
        numbers = (inode, self.mode, 0, 0, 1, 0, len(self.content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        return _padded(head) + _padded(self.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return an initrd with executable ``files`` at its top, and the directories /dev and /host."""
    entries = [_Entry(name, _DIRECTORY) for name in ("dev", "host")]
    entries += [_Entry(name, _FILE, content) for name, content in files.items()]
    entries.append(_Entry("TRAILER!!!", 0))
    return b"".join(entry.encoded(inode) for inode, entry in enumerate(entries, 1))
