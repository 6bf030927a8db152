"""Which iptables flavour a host uses: the rules of kubernetes-sigs/iptables-wrappers, as a table."""

from collections.abc import Iterable, Sequence

import pytest

from kubeproxy.kernel.exec import CommandMissing, Result
from kubeproxy.kernel.iptables import Flavour, detect_flavour

pytestmark = pytest.mark.unit

NOTHING = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"
RULES = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n"
HINT = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
KUBELET = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
OURS = "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n"
LEGACY_DEFAULT = "iptables v1.8.9 (legacy)\n"
NFT_DEFAULT = "iptables v1.8.9 (nf_tables)\n"


class Programs:
    """An Exec that knows what each installed program prints."""

    def __init__(self, outputs: dict[str, str | None], nft_error: str = "") -> None:
        self._outputs = outputs
        self._nft_error = nft_error

    def run(
        self, argv: Sequence[str], *, stdin: str | Iterable[str] = "", check: bool = True, timeout: float = 60.0
    ) -> Result:
        if argv[0] == "iptables-nft":
            if self._nft_error:
                return Result(status=4, stdout="", stderr=self._nft_error)
            return Result(status=0, stdout="", stderr="")
        output = self._outputs.get(argv[0])
        if output is None:
            raise CommandMissing(argv[0])
        return Result(status=0, stdout=output, stderr="")


@pytest.mark.parametrize(
    ("nft", "legacy", "default", "expected"),
    [
        (HINT, RULES, LEGACY_DEFAULT, Flavour.NFT),
        (RULES, KUBELET, NFT_DEFAULT, Flavour.LEGACY),
        (OURS, RULES, LEGACY_DEFAULT, Flavour.NFT),
        (RULES, OURS, NFT_DEFAULT, Flavour.LEGACY),
        (OURS, KUBELET, NFT_DEFAULT, Flavour.LEGACY),
        (NOTHING, RULES, NFT_DEFAULT, Flavour.LEGACY),
        (RULES, NOTHING, LEGACY_DEFAULT, Flavour.NFT),
        (NOTHING, NOTHING, LEGACY_DEFAULT, Flavour.LEGACY),
        (NOTHING, NOTHING, NFT_DEFAULT, Flavour.NFT),
        (NOTHING, NOTHING, None, Flavour.NFT),
        (None, NOTHING, LEGACY_DEFAULT, Flavour.LEGACY),
        (NOTHING, None, NFT_DEFAULT, Flavour.NFT),
    ],
)
def test_flavour(nft: str | None, legacy: str | None, default: str | None, expected: Flavour) -> None:
    programs = Programs({"iptables-nft-save": nft, "iptables-legacy-save": legacy, "iptables": default})
    assert detect_flavour(programs, "KUBE-PROXY-CANARY") is expected


UNSUPPORTED = "iptables v1.8.9 (nf_tables):  TABLE_ADD failed (Operation not supported): table nat\n"
BUSY = "iptables v1.8.9 (nf_tables):  TABLE_ADD failed (Device or resource busy): table nat\n"


@pytest.mark.parametrize(("error", "expected"), [(UNSUPPORTED, Flavour.LEGACY), (BUSY, Flavour.NFT)])
def test_a_kernel_without_nftables_is_told_by_a_write(error: str, expected: Flavour) -> None:
    outputs: dict[str, str | None] = {
        "iptables-nft-save": "",
        "iptables-legacy-save": NOTHING,
        "iptables": NFT_DEFAULT,
    }
    assert detect_flavour(Programs(outputs, error), "KUBE-PROXY-CANARY") is expected


def test_a_host_without_iptables_says_what_to_install() -> None:
    with pytest.raises(CommandMissing, match="apt-get install iptables"):
        detect_flavour(Programs({}), "KUBE-PROXY-CANARY")
