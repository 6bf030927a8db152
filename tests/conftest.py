"""Options that the whole suite shares."""

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="longer property and fault runs (minutes, not seconds)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--long"):
        os.environ["KUBEPROXY_LONG"] = "1"
