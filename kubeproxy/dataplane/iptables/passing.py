"""Rules that iptables and ipvs mode have in common: what is masqueraded, and what is let through. Pure."""

from collections.abc import Collection, Iterator

from kubeproxy.dataplane.iptables import names


def masquerade_rules(mark: str, hairpin: str, count: str = "") -> Iterator[str]:
    """Yield the rules of KUBE-POSTROUTING.

    ``hairpin`` matches endpoints that reach themselves, up to its set's directions; ``count`` is a rule for what
    is marked.
    """
    post = names.POSTROUTING
    # An endpoint that reaches itself through its Service must not see its own address as the client's.
    yield f"-A {post} {hairpin} dst,dst,src -j MASQUERADE --random-fully\n"
    yield f"-A {post} -m mark ! --mark {mark}/{mark} -j RETURN\n"
    if count:
        yield count
    # The mark goes, lest a packet that passes the stack again (a VXLAN's) be masqueraded twice.
    yield f"-A {post} -j MARK --xor-mark {mark}\n"
    comment = '-m comment --comment "kubernetes service traffic requiring SNAT"'
    yield f"-A {post} {comment} -j MASQUERADE --random-fully\n"


def forward_rules(mark: str, *, drop_invalid: bool, counters: Collection[str]) -> Iterator[str]:
    """Yield the rules of KUBE-FORWARD; ``counters`` are the nfacct objects that rules may name."""
    forward = names.FORWARD
    if drop_invalid:
        # A packet outside the window is not translated back; its sender would be reset by the client.
        name = names.CT_INVALID_COUNTER
        count = f"-m nfacct --nfacct-name {name} " if name in counters else ""
        yield f"-A {forward} -m conntrack --ctstate INVALID {count}-j DROP\n"
    comment = '-m comment --comment "kubernetes forwarding rules"'
    yield f"-A {forward} {comment} -m mark --mark {mark}/{mark} -j ACCEPT\n"
    yield (
        f'-A {forward} -m comment --comment "kubernetes forwarding conntrack rule" '
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
    )
