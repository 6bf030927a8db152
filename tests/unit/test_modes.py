"""Which mode a node runs, what is said where one cannot run, and what of the configuration reaches it."""

import errno
import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from kubeproxy.dataplane.iptables import machine as iptables_machine
from kubeproxy.dataplane.ipvs import machine as ipvs_machine
from kubeproxy.dataplane.ipvs.needs import PROBE_TABLE, SET_TYPES, missing
from kubeproxy.dataplane.leftovers import machine as leftovers_machine
from kubeproxy.dataplane.leftovers.machine import whole_kernel
from kubeproxy.dataplane.leftovers.removal import Kept
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.expressions import Random
from kubeproxy.kernel.nf_tables.fake import FakeNftables, FakeTable
from kubeproxy.kernel.nf_tables.types import AddRule, Change
from kubeproxy.kernel.notices import TableNotices
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.modes import ModeUnavailable, choose, family_trouble, flavour_of, intervals_of, parts_of
from kubeproxy.options import Options, parse, settings_of, without_a_node
from kubeproxy.sync.syncer import Intervals

pytestmark = pytest.mark.unit


class Machine:
    """A kernel without some modules; ``refused`` is what asking it fails with."""

    def __init__(self, *without: str, refused: Exception | None = None) -> None:
        self.without = set(without)
        self.refused = refused
        self.loaded: list[str] = []
        self.no_iptables = ""
        self.asked: list[tuple[Family, str]] = []
        self.nf_tables = FakeNftables()
        self.nf_tables.present = False
        self.families = set(Family)
        """Which IPVS knows."""

    def load(self, modules: Sequence[str]) -> None:
        self.loaded += modules

    def has_ipvs(self) -> bool:
        if self.refused:
            raise self.refused
        return "ip_vs" not in self.without

    def has_scheduler(self, name: str) -> bool:
        assert self.has_ipvs(), "without IPVS nobody can be asked"
        return f"ip_vs_{name}" not in self.without

    def has_device_kind(self, kind: str) -> bool:
        return kind not in self.without

    def has_set_type(self, name: str) -> bool:
        assert name in ("hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:port")
        return f"ip_set_{re.sub('[:]', '_', name).replace(',', '')}" not in self.without

    def has_match(self, match: str) -> bool:
        return f"xt_{match}" not in self.without

    def iptables_trouble(self) -> str:
        return self.no_iptables

    def nf_table(self, family: Family, name: str) -> AbstractContextManager[NfTable]:
        self.asked.append((family, name))
        table = FakeTable(family, name, self.nf_tables)
        table.refuses = lambda change: errno.ENOENT if "nft_numgen" in self.without and _is_random(change) else 0
        return nullcontext(table)

    def serves(self, family: Family) -> bool:
        return family in self.families

    def tables_trouble(self, family: Family, flavour: Flavour) -> str:
        return self.no_iptables


def _is_random(change: Change) -> bool:
    return isinstance(change, AddRule) and any(isinstance(each, Random) for each in change.rule.expressions)


def with_nf_tables(*without: str) -> Machine:
    machine = Machine(*without)
    machine.nf_tables.present = True
    return machine


EVERYTHING = ("ip_vs", "ip_vs_rr", "dummy", *[each.module for each in SET_TYPES.values()], "xt_set")


def mode_of(options: Options) -> str:
    return options.configuration.mode


def test_modprobe_is_asked_for_all_that_there_may_be() -> None:
    machine = Machine()
    assert missing(machine, "mh") == ()
    assert machine.loaded == [each.replace("_rr", "_mh") for each in EVERYTHING]


@pytest.mark.parametrize(
    ("without", "named"),
    [
        *[([each], [each]) for each in EVERYTHING if each != "ip_vs"],
        (["ip_vs"], ["ip_vs", "ip_vs_rr"]),
        (["ip_vs", "dummy"], ["ip_vs", "ip_vs_rr", "dummy"]),
    ],
)
def test_what_a_kernel_lacks_is_named_with_what_to_do(without: list[str], named: list[str]) -> None:
    with pytest.raises(ModeUnavailable) as caught:
        choose(parse(["--mode=ipvs"]), Machine(*without))
    text = str(caught.value)
    assert text.startswith(f"mode ipvs cannot run here: this kernel has no {named[0]} (CONFIG_")
    assert f"(modprobe -a {' '.join(named)})" in text
    assert text.endswith("or choose --mode auto or iptables")
    assert all(f"{module} (CONFIG_" in text for module in named)
    assert not any(f"{module} (" in text for module in set(EVERYTHING) - set(named))


def test_the_chosen_scheduler_is_what_the_kernel_must_have() -> None:
    machine = Machine("ip_vs_mh")
    assert mode_of(choose(parse(["--mode=ipvs"]), machine)) == "ipvs"
    with pytest.raises(ModeUnavailable, match=r"no ip_vs_mh \(CONFIG_IP_VS_MH\)"):
        choose(parse(["--mode=ipvs", "--ipvs-scheduler=mh"]), machine)


def test_a_kernel_that_does_not_answer_is_no_kernel_without() -> None:
    machine = Machine(refused=KernelError("IPVS: Operation not permitted"))
    with pytest.raises(
        ModeUnavailable, match="the kernel does not tell whether it can: IPVS: Operation not permitted"
    ):
        choose(parse(["--mode=ipvs"]), machine)
    assert mode_of(choose(parse(["--mode=auto"]), machine)) == "iptables"


@pytest.mark.parametrize(
    ("flags", "machine", "mode", "lines"),
    [
        (["--mode=auto"], with_nf_tables(), "nftables", ["mode auto: nftables"]),
        (["--mode=auto"], Machine(), "ipvs", ["not nftables: this kernel", "mode auto: ipvs"]),
        (["--proxy-mode=auto"], Machine(), "ipvs", []),
        (
            ["--mode=auto"],
            Machine("ip_vs", "dummy"),
            "iptables",
            [
                "not ipvs: this kernel has no ip_vs (CONFIG_IP_VS), ip_vs_rr (CONFIG_IP_VS_RR), dummy",
                "auto: iptables",
            ],
        ),
        (["--mode=auto", "--ipvs-scheduler=mh"], Machine("ip_vs_mh"), "iptables", []),
        # As upstream's, no mode at all is iptables mode, and nothing is asked.
        ([], Machine(refused=AssertionError()), "iptables", []),
        (["--mode="], Machine(refused=AssertionError()), "iptables", []),
        (["--mode=iptables"], Machine(refused=AssertionError()), "iptables", []),
    ],
)
def test_auto_takes_the_best_that_runs_and_says_why_nothing_better(
    flags: list[str], machine: Machine, mode: str, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert mode_of(choose(parse(flags), machine)) == mode
    assert all(line in caplog.text for line in lines)


def test_auto_in_a_file_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: auto\n")
    with file.open("a") as more:
        more.write("ipvs:\n  minSyncPeriod: 3s\n")
    options = choose(parse([f"--config={file}"]), Machine())
    assert mode_of(options) == "ipvs"
    # What hangs on the mode follows it.
    assert intervals_of(options.configuration).min_sync == 3


def test_auto_is_checked_in_every_mode_that_it_may_become(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--mode=auto", "--ipvs-udp-timeout=-1s", "--iptables-sync-period=-2s"])
    assert "ipvs.udpTimeout" in (text := capsys.readouterr().err)
    assert "iptables.syncPeriod" in text


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ([], IpvsSettings()),
        (["--ipvs-scheduler=lc"], IpvsSettings(scheduler="lc")),
        (
            ["--ipvs-exclude-cidrs=10.0.0.7/8,FD00::/8"],
            IpvsSettings(exclude_cidrs=("10.0.0.0/8", "fd00::/8")),
        ),
        (["--ipvs-strict-arp"], IpvsSettings(strict_arp=True)),
        (["--ipvs-tcp-timeout=15m"], IpvsSettings(tcp_timeout=900)),
        (["--ipvs-tcpfin-timeout=90s"], IpvsSettings(tcp_fin_timeout=90)),
        (["--ipvs-udp-timeout=250ms"], IpvsSettings(udp_timeout=1)),
    ],
)
def test_the_block_ipvs_reaches_the_mode(flags: list[str], settings: IpvsSettings) -> None:
    assert settings_of(parse(["--mode=ipvs", *flags])).ipvs == settings
    assert settings_of(parse(["--mode=iptables", *flags])).ipvs is None


def test_masquerading_is_that_of_the_block_iptables() -> None:
    settings = settings_of(parse(["--mode=ipvs", "--masquerade-all", "--iptables-masquerade-bit=3"]))
    assert (settings.masquerade_all, settings.masquerade_bit) == (True, 3)


@pytest.mark.parametrize(
    ("flags", "intervals"),
    [
        (["--mode=iptables"], Intervals(min_sync=0, retry=30, max_sync=3600)),
        (["--mode=iptables", "--iptables-sync-period=20s"], Intervals(min_sync=0, retry=20, max_sync=3600)),
        (["--mode=ipvs"], Intervals(min_sync=0, retry=30, max_sync=3600)),
        (
            ["--mode=ipvs", "--ipvs-sync-period=20s", "--ipvs-min-sync-period=2s", "--iptables-sync-period=9s"],
            Intervals(min_sync=2, retry=20, max_sync=3600),
        ),
    ],
)
def test_each_modes_own_periods_count(flags: list[str], intervals: Intervals) -> None:
    assert intervals_of(parse(flags).configuration) == intervals


@pytest.mark.parametrize("flavour", Flavour)
@pytest.mark.parametrize("mode", ["iptables", "ipvs"])
def test_a_mode_is_made_of_its_own_parts(mode: str, flavour: Flavour) -> None:
    parts = parts_of(parse([f"--mode={mode}"]), flavour)
    assert parts.kept == Kept(mode=Mode(mode), flavour=flavour)
    assert str(parts) == f"{mode} ({flavour})"
    cidrs = ["--ipvs-exclude-cidrs=10.0.0.0/08,FD00::/64"]
    assert parts_of(parse([f"--mode={mode}", *cidrs]), flavour).kept.excluded == ("10.0.0.0/8", "fd00::/64")
    assert type(parts.locator).__name__.lower().startswith(mode)


@pytest.mark.parametrize(
    ("mode", "flavour", "sources"),
    [
        ("iptables", Flavour.LEGACY, []),
        ("iptables", Flavour.NFT, ["TableNotices"]),
        ("nftables", None, ["TableNotices"]),
        ("ipvs", Flavour.LEGACY, ["AddressNotices"]),
        ("ipvs", Flavour.NFT, ["AddressNotices", "TableNotices"]),
        ("ipvs", None, ["AddressNotices", "TableNotices"]),
    ],
)
def test_a_mode_is_told_of_what_the_kernel_tells(mode: str, flavour: Flavour | None, sources: list[str]) -> None:
    parts = parts_of(parse([f"--mode={mode}"]), flavour)
    assert [type(source).__name__ for source in parts.hints(Family.V6)] == sources
    assert (parts.glance_every < 1) == (mode != "nftables")


@pytest.mark.parametrize("flavour", Flavour)
@pytest.mark.parametrize("mode", ["iptables", "ipvs"])
def test_programs_are_remembered_where_somebody_hears_of_them(
    mode: str, flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that sweep are ours like the backend's."""
    heard: list[Writers | None] = []

    class Programs(SystemExec):
        def __init__(self, writers: Writers | None = None) -> None:
            heard.append(writers)

    for module in (iptables_machine, ipvs_machine, leftovers_machine):
        monkeypatch.setattr(module, "SystemExec", Programs)
    parts = parts_of(parse([f"--mode={mode}"]), flavour)
    for family in Family:
        heard.clear()
        parts.backend(family)
        for each in Flavour:
            whole_kernel(parts.programs).tables(family, each)
        listening = [each._writers for each in parts.hints(family) if isinstance(each, TableNotices)]
        ours = listening[0] if listening else None
        assert (ours is None) == (flavour is Flavour.LEGACY)
        backends, *sweepers = heard
        assert backends is ours
        assert dict(zip(Flavour, sweepers, strict=True)) == {Flavour.LEGACY: None, Flavour.NFT: ours}


def test_nftables_mode_needs_no_iptables_and_leaves_loopback_alone(caplog: pytest.LogCaptureFixture) -> None:
    machine = with_nf_tables()
    options = choose(parse(["--mode=nftables"]), machine)

    def detect() -> Flavour:
        raise AssertionError("nobody asks for iptables")

    assert flavour_of(options, machine, detect) is None
    parts = parts_of(options, None)
    assert (str(parts), parts.kept) == ("nftables (netlink)", Kept(mode=Mode.NFTABLES))
    assert type(parts.locator).__name__ == "NftablesLocator"
    settings = settings_of(options)
    assert (settings.localhost_nodeports, settings.nodeport_addresses) == (False, ("primary",))
    assert settings_of(without_a_node(options)).nodeport_addresses == ()
    assert machine.nf_tables.tables == {}


def test_a_kernel_without_nf_tables_is_told_with_what_to_do() -> None:
    with pytest.raises(ModeUnavailable, match=r"mode nftables cannot run here: .*nf_tables.* --mode auto or ipt"):
        choose(parse(["--mode=nftables"]), Machine())


def troubles(mode: str, machine: Machine, flavour: Flavour | None) -> list[str]:
    options = parse([f"--mode={mode}"])
    return [family_trouble(options, machine, flavour, family) for family in Family]


def test_each_mode_asks_for_what_it_needs_in_each_family() -> None:
    everything, nothing = with_nf_tables(), without_iptables()
    nothing.families.remove(Family.V6)
    assert troubles("nftables", everything, None) == ["", ""]
    assert all("nf_tables" in each for each in troubles("nftables", nothing, None))
    for flavour in Flavour:
        assert troubles("iptables", everything, flavour) == ["", ""]
        assert troubles("iptables", nothing, flavour) == [nothing.no_iptables] * 2
        _, of_v6 = troubles("ipvs", nothing, flavour)
        assert "CONFIG_IP_VS_IPV6" in of_v6
    nothing.asked.clear()
    assert troubles("ipvs", nothing, None)[0] == ""
    assert nothing.asked == [(Family.V4, PROBE_TABLE)]
    nothing.nf_tables.present = False
    assert "modprobe nf_tables" in troubles("ipvs", nothing, None)[0]


def without_iptables(*without: str) -> Machine:
    """Return a machine where ipvs mode's rules can be nftables', and nftables mode cannot be."""
    machine = with_nf_tables("nft_numgen", *without)
    machine.no_iptables = "iptables-nft: not installed; iptables-legacy: not installed"
    return machine


@pytest.mark.parametrize(
    ("machine", "flavour"),
    [
        (Machine(), Flavour.LEGACY),
        (without_iptables(), None),
        (without_iptables("xt_set"), None),
        (without_iptables(*[each.module for each in SET_TYPES.values()]), None),
    ],
)
def test_without_iptables_the_rules_of_ipvs_mode_are_nftables(machine: Machine, flavour: Flavour | None) -> None:
    options = choose(parse(["--mode=auto"]), machine)
    assert mode_of(options) == "ipvs"
    assert flavour_of(options, machine, lambda: Flavour.LEGACY) is flavour
    parts = parts_of(options, flavour)
    assert parts.kept == Kept(mode=Mode.IPVS, flavour=flavour)
    assert str(parts) == f"ipvs ({flavour or 'nftables'})"
    assert ((Family.V4, PROBE_TABLE) in machine.asked) is (flavour is None)
    assert not machine.nf_tables.tables, "nothing of it is left"


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ((), "iptables-nft: not installed; iptables-legacy: not installed"),
        (("xt_set",), "this kernel has no xt_set (CONFIG_NETFILTER_XT_SET); load them (modprobe -a xt_set)"),
    ],
)
def test_without_either_it_is_said_what_is_missing(without: tuple[str, ...], told: str) -> None:
    machine = without_iptables(*without)
    machine.nf_tables.present = False
    with pytest.raises(ModeUnavailable) as caught:
        choose(parse(["--mode=ipvs"]), machine)
    text = str(caught.value)
    assert text.startswith(f"mode ipvs cannot run here: {told}")
    assert "; and not by nftables either, in place of iptables: nf_tables ip kube-proxy-ipvs-probe: " in text
    assert "modprobe nf_tables" in text


def test_iptables_mode_asks_only_for_the_flavour() -> None:
    machine = Machine(refused=AssertionError())
    assert flavour_of(parse([]), machine, lambda: Flavour.NFT) is Flavour.NFT
