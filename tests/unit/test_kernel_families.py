"""Which families a host is found to have, and what is said about one that is missing."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest

from kubeproxy.kernel import families
from kubeproxy.kernel.exec import CommandMissing, Result
from kubeproxy.kernel.families import NoFamily, host_families
from kubeproxy.kernel.iptables import Flavour, tables_trouble
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.unit

GLOBAL = "fd000000000000000000000000000011 02 40 00 80     eth0\n"
LINK_LOCAL = "fe800000000000000000000000000011 02 40 20 80     eth0\n"


class Programs:
    """iptables programs that answer with a status, for one table perhaps, or are not there (None)."""

    def __init__(self, v4: int | None = 0, v6: int | None = 0, table: str = "") -> None:
        self._statuses = {"iptables-nft": v4, "ip6tables-nft": v6}
        self._table = table

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | Iterable[str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> Result:
        status = self._statuses[argv[0]]
        if status is None:
            raise CommandMissing(f"{argv[0]}: not installed")
        table = argv[argv.index("-t") + 1]
        if status == 0 or self._table not in ("", table):
            return Result(status=0, stdout="", stderr="")
        return Result(status=status, stdout="", stderr=f"table `{table}' does not exist\n")


def asked(programs: Programs) -> Callable[[Family], str]:
    return partial(tables_trouble, programs, flavour=Flavour.NFT)


def interfaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "if_inet6"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(families, "IPV6_INTERFACES", path)


def test_both_families_are_served_where_the_host_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interfaces(monkeypatch, tmp_path, GLOBAL)
    found = host_families(FakeSysctls(), asked(Programs()))
    assert found.served == tuple(Family)
    assert found.missing == found.hints == ()


@pytest.mark.parametrize(
    ("text", "sysctls", "programs", "why"),
    [
        (None, {}, Programs(), "no IPv6"),
        ("", {families.DISABLED: "1"}, Programs(), "net.ipv6.conf.all.disable_ipv6=1"),
        ("", {}, Programs(v6=None), "ip6tables-nft: not installed"),
        ("", {}, Programs(v6=3), "table `nat' does not exist"),
        ("", {}, Programs(v6=3, table="mangle"), "table `mangle' does not exist"),
    ],
)
def test_a_family_that_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    sysctls: dict[str, str],
    programs: Programs,
    why: str,
) -> None:
    interfaces(monkeypatch, tmp_path, text)
    found = host_families(FakeSysctls(sysctls), asked(programs))
    assert found.served == (Family.V4,)
    ((family, told),) = found.missing
    assert family is Family.V6
    assert why in told


def test_a_host_without_any_cannot_be_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interfaces(monkeypatch, tmp_path, None)
    with pytest.raises(NoFamily, match=r"IPv4 cannot be served: .* nat.*; IPv6 cannot be served: .*no IPv6"):
        host_families(FakeSysctls(), asked(Programs(v4=3)))


def test_a_held_lock_makes_no_family_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interfaces(monkeypatch, tmp_path, "")
    assert host_families(FakeSysctls(), asked(Programs(v4=4, v6=4))).missing == ()


@pytest.mark.parametrize(
    ("text", "sysctls", "told"),
    [
        (GLOBAL, {"net/ipv4/ip_forward": "0"}, ["net.ipv4.ip_forward=1"]),
        (GLOBAL, {"net/ipv6/conf/all/forwarding": "0"}, ["net.ipv6.conf.all.forwarding=1"]),
        (LINK_LOCAL, {"net/ipv6/conf/all/forwarding": "0"}, []),
        (GLOBAL, {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}, []),
    ],
)
def test_a_host_that_does_not_forward_is_hinted_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, sysctls: dict[str, str], told: list[str]
) -> None:
    interfaces(monkeypatch, tmp_path, text)
    hints = host_families(FakeSysctls(sysctls), asked(Programs())).hints
    assert [hint.rpartition(" ")[2] for hint in hints] == told
