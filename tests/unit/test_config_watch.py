"""The configuration file changes: each way in which files are replaced ends the process, and nothing else does."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.config.watch import LOOK_SECONDS, ConfigurationChanged, digest, watch

pytestmark = pytest.mark.unit


class Watched:
    """A file as kubelet mounts a ConfigMap: config.conf → ..data/config.conf → ..one/config.conf."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "config.conf"
        self.add("..one", "mode: a")
        (directory / "..data").symlink_to("..one")
        self.path.symlink_to("..data/config.conf")
        self.clock = ManualClock()
        self.task = asyncio.create_task(watch(self.path, digest(b"mode: a"), self.clock))

    def add(self, name: str, content: str) -> None:
        (self.directory / name).mkdir()
        (self.directory / name / "config.conf").write_text(content)

    def swap_to(self, name: str) -> None:
        (self.directory / "..data_tmp").symlink_to(name)
        (self.directory / "..data_tmp").rename(self.directory / "..data")

    async def ends(self) -> bool:
        await self.clock.step(2 * LOOK_SECONDS)
        return self.task.done() and isinstance(self.task.exception(), ConfigurationChanged)


def written(watched: Watched) -> None:
    watched.path.resolve().write_text("mode: b")


def written_in_as_many_bytes_and_at_the_same_time(watched: Watched) -> None:
    target = watched.path.resolve()
    before = target.stat()
    target.write_text("mode: z")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed_over(watched: Watched) -> None:
    (watched.directory / "new").write_text("mode: b")
    (watched.directory / "new").rename(watched.path)


def swapped(watched: Watched) -> None:
    watched.add("..two", "mode: b")
    watched.swap_to("..two")


CHANGES = [written, written_in_as_many_bytes_and_at_the_same_time, renamed_over, swapped]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_ends_the_process(tmp_path: Path, change: Callable[[Watched], None]) -> None:
    watched = Watched(tmp_path)
    await watched.clock.step(10 * LOOK_SECONDS)
    assert not watched.task.done()
    change(watched)
    assert await watched.ends()
    assert str(watched.task.exception()) == "content of the proxy server's configuration file was updated"


async def test_a_change_between_reading_and_the_first_look_is_seen(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    written(watched)
    await settle()
    assert await watched.ends()


async def test_the_same_content_again_is_no_change(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    await settle()
    watched.path.resolve().touch()
    assert not await watched.ends()
    watched.add("..two", "mode: a")
    watched.swap_to("..two")
    assert not await watched.ends()
    watched.task.cancel()


async def test_a_file_that_goes_away_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(tmp_path)
    with caplog.at_level(logging.WARNING):
        (tmp_path / "..data").unlink()
        await watched.clock.step(10 * LOOK_SECONDS)
        assert not watched.task.done()
        assert len(caplog.records) == 1
        assert "No such file or directory; going on with what it said" in caplog.text
        (tmp_path / "..data").symlink_to("..one")
        await watched.clock.step(2 * LOOK_SECONDS)
        (tmp_path / "..data").unlink()
        await watched.clock.step(2 * LOOK_SECONDS)
        assert len(caplog.records) == 2
    watched.add("..two", "mode: b")
    (tmp_path / "..data").symlink_to("..two")
    assert await watched.ends()
