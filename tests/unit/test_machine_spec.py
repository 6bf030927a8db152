"""What a machine shall be, and what its kernel is told."""

import pytest

from kubeproxy.lab.machine.spec import MachineError, Nic, Spec, explain_console, kernel_line, last_lines

pytestmark = pytest.mark.unit

MAC = "02:00:00:00:00:01"


def line_of(spec: Spec) -> str:
    return " ".join(kernel_line(spec, directory="/tmp/m", line=5, python="/usr/bin/python3", package_root="/src"))


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
