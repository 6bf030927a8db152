"""Rules in words: what we make of the kernel's expressions is what `nft list` makes of them."""

import subprocess

import pytest

from kubeproxy.kernel.nf_tables.fields import fields_bytes
from kubeproxy.kernel.nf_tables.rule_text import rule_text
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.model.addresses import Family
from tests.netns.lone_namespace import LoneNamespace

pytestmark = pytest.mark.netns

PLACE = "IP daddr . meta l4proto . th dport"
TABLE = f"""table IP t {{
 map service-classes {{ typeof {PLACE} : meta priority; }}
 map picks {{ typeof meta priority : verdict; }}
 map endpoints {{ typeof {PLACE} . numgen random mod 2 : IP daddr . th dport; }}
 map affinity {{ typeof IP saddr . {PLACE} : meta priority; flags dynamic,timeout; size 65536; }}
 map sticky-endpoints {{ typeof {PLACE} . meta priority : IP daddr . th dport; }}
 set firewall-sources {{ typeof {PLACE} . IP saddr; flags interval; }}
 set hairpin-connections {{ typeof IP saddr . {PLACE}; }}
 set no-endpoints {{ typeof meta l4proto . th dport; }}
 chain other {{ accept; }}
 chain rules {{
RULES
 }}
}}
"""
OURS = f"""
  ct state new jump other
  ct state invalid drop
  ct state established,related accept
  ct status dnat IP saddr . {PLACE} @hairpin-connections masquerade fully-random
  meta mark & 0x4000 != 0 meta mark set mark xor 0x4000 masquerade fully-random
  meta mark & 0x4000 == 0 return
  meta mark set mark or 0x4000
  meta priority and ff00:0 == 6b00:0 meta priority set none
  IP saddr != PODS meta mark set mark or 0x4000
  IP saddr PART goto other
  IP daddr ONE accept
  iifname "cni0" goto other
  iifname != "veth*" meta mark set 0x1
  oifname "eth0" counter accept
  fib saddr type local goto other
  fib daddr type local IP daddr != LOOPBACK meta l4proto . th dport @no-endpoints reject
  meta priority set {PLACE} map @service-classes
  meta priority vmap @picks
  meta priority set 6b00:3
  dnat IP to {PLACE} . numgen random mod 7 map @endpoints
  dnat IP to {PLACE} . meta priority map @sticky-endpoints
  {PLACE} . IP saddr != @firewall-sources counter drop comment "why so"
  meta l4proto tcp dnat to PORT
  dnat to ONE
  tcp dport 80 reject
  udp sport != 53 drop
  meta nftrace set 1
"""
AFFINITY = f"""
  meta priority != none update @affinity {{ IP saddr . {PLACE} timeout 1d3h10s : meta priority }} accept
  delete @affinity {{ IP saddr . {PLACE} : meta priority }}
"""
THEIRS = {
    'log prefix "x" drop': "[log] drop",
    "IP daddr { ONE, TWO } accept": "IP daddr @__set0 accept",
    "ct mark 0x1 accept": "[ct]",
}
"""What is somebody else's is named, and does no harm."""
WORDS = {
    Family.V4: {
        "IP": "ip",
        "PODS": "10.244.0.0/16",
        "PART": "10.244.128.0/17",
        "ONE": "10.0.0.1",
        "TWO": "10.0.0.2",
        "LOOPBACK": "127.0.0.0/8",
        "PORT": "10.0.0.1:80",
    },
    Family.V6: {
        "IP": "ip6",
        "PODS": "fd00:10:244::/64",
        "PART": "fd00:10:244::/63",
        "ONE": "fd00::1",
        "TWO": "fd00::2",
        "LOOPBACK": "::1",
        "PORT": "[fd00::1]:80",
    },
}


def load(node: LoneNamespace, family: Family, rules: str) -> None:
    text = TABLE.replace("RULES", rules)
    for word, meaning in WORDS[family].items():
        text = text.replace(word, meaning)
    node.run(lambda: subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True))


def spoken(node: LoneNamespace, family: Family) -> list[str]:
    table = KernelTable(family, "t")
    sets = node.run(table.sets)
    keys = {name: fields_bytes(spec.key, family) for name, spec in sets.items()}
    found = [rule_text(rule, family, keys) for rule in node.run(lambda: table.rules("rules"))]
    table.close()
    return found


def listed(node: LoneNamespace, family: Family) -> list[str]:
    lines = node.execute("nft", "-s", "list", "chain", WORDS[family]["IP"], "t", "rules").splitlines()
    return [line.strip() for line in lines if line.startswith("\t\t")]


@pytest.mark.parametrize("family", list(Family))
def test_our_rules_are_spoken_as_nft_lists_them(alone: LoneNamespace, family: Family) -> None:
    # nft 1.0.6 cannot read what it writes of a map that packets fill by IPv6 addresses.
    load(alone, family, OURS + (AFFINITY if family is Family.V4 else ""))
    said, read = spoken(alone, family), listed(alone, family)
    assert len(said) == len(read) > 25
    assert said == read


@pytest.mark.parametrize("family", list(Family))
def test_what_is_none_of_ours_is_named(alone: LoneNamespace, family: Family) -> None:
    load(alone, family, "\n".join(THEIRS))
    for text, start in zip(spoken(alone, family), THEIRS.values(), strict=True):
        assert text.startswith(start.replace("IP", WORDS[family]["IP"]))
