"""A pytest plugin for the inside of a machine: runs the tests that the host wants, and tells it of each.

What is told are lines of JSON on descriptor 3. `KUBEPROXY_INSIDE` names a file with the wanted ids.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

REPORTS = 3


def tell(**message: Any) -> None:
    data = json.dumps(message, default=str).encode() + b"\n"
    while data:
        data = data[os.write(REPORTS, data) :]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    wanted = json.loads(Path(os.environ["KUBEPROXY_INSIDE"]).read_text())
    found = {item.nodeid: item for item in items}
    items[:] = [found[each] for each in wanted if each in found]
    for each in wanted:
        if each not in found:
            tell(error=f"{each} was not found inside")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        tell(error=f"{report.nodeid} could not be collected inside:\n{report.longreprtext}")


def pytest_runtest_logstart(nodeid: str) -> None:
    tell(began=nodeid)


class Reporter:
    """Reports made of the run's own configuration."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        tell(report=self._config.hook.pytest_report_to_serializable(config=self._config, report=report))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reporter(config))


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str) -> None:
    tell(finished=nodeid)
