"""/statusz and /flagz in the form of upstream's z-pages (k8s.io/component-base/zpages): text for people. Pure.

Upstream draws the delimiter by lot, so that nobody parses the text; ours is always the same.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from kubeproxy.health import COMPONENT

_HEADER = """
{component} {what}
Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.
"""  # noqa: E501 (upstream's line, which monitoring knows these pages by)


def flagz(flags: Mapping[str, str]) -> str:
    """Return the page of flags by name."""
    lines = [f"{name}={value}\n" for name, value in sorted(flags.items())]
    return _HEADER.format(component=COMPONENT, what="flags") + "\n" + "".join(lines)


def statusz(*, started: float, now: float, runtime: str, version: str, paths: Iterable[str]) -> str:
    """Return the page about the process; times are Unix seconds."""
    folders = sorted({"/" + path.split("/")[1] for path in paths} - {"/"})
    begin = datetime.fromtimestamp(started, UTC).strftime("%a %b %e %H:%M:%S UTC %Y")
    lines = (
        f"Started: {begin}",
        f"Up: {_uptime(now - started)}",
        f"{runtime.split()[0]} version: {runtime.split()[1]}",
        f"Binary version: {version}",
        "",
        f"Paths: {' '.join(folders)}",
    )
    return _HEADER.format(component=COMPONENT, what="statusz") + "\n" + "\n".join(lines) + "\n"


def takes_text(accept: str) -> bool:
    """Return whether an Accept header takes plain text; an absent one takes everything."""
    kinds = [part.split(";")[0].strip() for part in accept.split(",")]
    return not accept.strip() or any(kind in ("*/*", "text/*", "text/plain") for kind in kinds)


def _uptime(seconds: float) -> str:
    whole = max(int(seconds), 0)
    return f"{whole // 3600} hr {whole // 60 % 60:02d} min {whole % 60:02d} sec"
