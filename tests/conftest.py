"""Options that the whole suite shares."""

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="longer property and fault runs (minutes, not seconds)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--long"):
        os.environ["KUBEPROXY_LONG"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """On CI a test that is skipped is a part that CI failed to install: that is a failure."""
    report = yield
    if report.skipped and os.environ.get("KUBEPROXY_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI skips nothing: {report.longrepr}"
    return report
