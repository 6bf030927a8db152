"""Configuration files of any content: read, refused by name or validated, never a traceback; Go's durations."""

import os
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy.config.decode import DecodeError, decode, resolved
from kubeproxy.config.encode import as_object, as_yaml
from kubeproxy.config.flags import DEFAULTS
from kubeproxy.config.mismatch import mismatches
from kubeproxy.config.types import Configuration
from kubeproxy.config.validation import validate
from kubeproxy.flags import duration, go_duration

pytestmark = pytest.mark.unit

EXAMPLES = 3000 if os.environ.get("KUBEPROXY_LONG") else 100

DEFAULT = as_object(DEFAULTS)
TEXT = st.sampled_from(
    [
        "",
        "1s",
        "-1m",
        "0.5ms",
        "primary",
        "ipvs",
        "nftables",
        "10.0.0.0/8",
        "fd00::/8",
        "10.0.0.1",
        "::",
        "[::1]:80",
        "a:b:c",
    ]
) | st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([10**400, 2**63])
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False)
    | TEXT
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


def like(value: Any) -> st.SearchStrategy[Any]:
    """Draw what is of a default's shape, or sometimes anything else."""
    if isinstance(value, dict):
        same: st.SearchStrategy[Any] = st.fixed_dictionaries({}, optional={k: like(v) for k, v in value.items()})
    elif isinstance(value, bool):
        same = st.booleans()
    elif isinstance(value, int):
        same = st.integers(-2, 70_000)
    elif value is None:
        same = st.lists(TEXT, max_size=3)
    else:
        same = st.just(value) | TEXT
    return st.one_of(*[same] * 19, SCALARS)


FILES = st.fixed_dictionaries({}, optional={name: like(value) for name, value in DEFAULT.items()})
HEAD = {"apiVersion": DEFAULT["apiVersion"], "kind": DEFAULT["kind"]}


def attempt(content: bytes) -> Configuration | str:
    """Return what a file holds, or why it is refused; nothing else may be raised."""
    try:
        return decode(content).configuration
    except DecodeError as error:
        return str(error)


@settings(max_examples=EXAMPLES)
@given(FILES)
def test_a_file_is_read_or_refused_by_name(content: dict[str, Any]) -> None:
    configuration = attempt(yaml.safe_dump({**content, **HEAD}).encode())
    if isinstance(configuration, str):
        assert configuration.startswith("failed to decode: KubeProxyConfiguration.")
        return
    assert all(error.startswith("KubeProxyConfiguration.") for error in validate(configuration))
    chosen = resolved(configuration)
    if not validate(chosen):
        for addresses in ((), ("192.0.2.1",), ("fd00::1",)):
            assert all(each.text for each in mismatches(chosen, addresses, dual_stack=False))
    again = decode(as_yaml(configuration).encode())
    assert (again.configuration, again.strict_error) == (configuration, "")


@settings(max_examples=EXAMPLES)
@given(ANYTHING)
def test_whatever_yaml_it_is_there_is_no_traceback(content: Any) -> None:
    tree = {**content, **HEAD} if isinstance(content, dict) else content
    assert attempt(yaml.safe_dump(tree).encode())


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=200))
def test_whatever_bytes_they_are_there_is_no_traceback(content: bytes) -> None:
    assert attempt(content)
    assert attempt(yaml.safe_dump(HEAD).encode() + content)


@given(st.integers(-(2**50), 2**50))
def test_a_duration_survives_its_text(nanoseconds: int) -> None:
    seconds = nanoseconds / 1e9
    assert round(duration(go_duration(seconds)) * 1e9) == nanoseconds
