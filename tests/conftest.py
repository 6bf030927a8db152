"""Options that the whole suite shares, which tests run inside a machine, and the end of a run that hangs."""

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_bed import QEMU, UML
from tests.machine_tests import MachineTests

HERE = Path(__file__).parent
GRACE = 60.0
"""Seconds beyond its timeout after which a test or its teardown ends the run; those of the interpreter's exit."""
_stderr = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="longer property and fault runs (minutes, not seconds)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--long"):
        os.environ["KUBEPROXY_LONG"] = "1"
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        config.stash[_stderr] = os.dup(2)  # While a test runs, pytest captures the descriptor 2 itself.
    kinds = {HERE / "qemu": QEMU, HERE / "uml": UML}  # What takes longer first.
    config.pluginmanager.register(MachineTests(kinds, pure=[HERE / "unit", HERE / "property"]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """On CI a test that is skipped is a part that CI failed to install: that is a failure."""
    report = yield
    if report.skipped and os.environ.get("KUBEPROXY_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI skips nothing: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the whole run, with every thread's stack, when a test goes on after its timeout.

    pytest-timeout fires once, and an asyncio test can survive it: raised in a callback, asyncio logs the exception
    and goes on; raised inside the loop, the test's teardown has no limit any more.
    """
    _stop_after(item.config, _timeout(item))
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    _stop_after(item.config, _timeout(item))  # Anew: after a failure pytest itself takes it back.


def pytest_unconfigure(config: pytest.Config) -> None:
    _stop_after(config, GRACE)  # A thread that never ends would hold up the interpreter's exit.


def _timeout(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    timeout = marker.args[0] if marker else item.config.getoption("timeout") or item.config.getini("timeout")
    return float(timeout or 0) and float(timeout) + GRACE


def _stop_after(config: pytest.Config, seconds: float) -> None:
    if seconds > 0:
        faulthandler.dump_traceback_later(seconds, exit=True, file=config.stash[_stderr])
