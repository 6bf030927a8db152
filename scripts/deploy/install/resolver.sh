# shellcheck shell=bash disable=SC2154
# Sourced by install-node: the node's own programs ask clusterdns, and clusterdns asks whom they asked before.
# Where systemd-resolved runs it is told the cluster's domain; elsewhere /etc/resolv.conf is ours until --uninstall.

RESOLVER_MARK="# Written by install-node: the node asks its own clusterdns, which asks the servers in $ETC/resolv.conf."
RESOLVED_DROP_IN=/etc/systemd/resolved.conf.d/kubeproxy.conf
DHCLIENT_HOOK=/etc/dhcp/dhclient-enter-hooks.d/kubeproxy

uses_resolved() { systemctl is-active --quiet systemd-resolved.service; }

# Keep in /etc/kubeproxy/resolv.conf whom the machine asked before; clusterdns forwards there.
keep_upstream_resolver() {
    if uses_resolved; then
        { grep -vxF "nameserver $NODE_ADDRESS" /run/systemd/resolve/resolv.conf || true; } | put "$ETC/resolv.conf" 644
    elif ! grep -qF "$RESOLVER_MARK" /etc/resolv.conf 2>/dev/null; then
        [ ! -e /etc/resolv.conf ] || cp -a /etc/resolv.conf "$ETC/resolv.conf.before"
        { cat /etc/resolv.conf 2>/dev/null || true; } | put "$ETC/resolv.conf" 644
    fi
}

use_cluster_resolver() {
    if uses_resolved; then
        local before=$changed
        put "$RESOLVED_DROP_IN" 644 <<END
# Written by install-node: names of the cluster are asked at this node's clusterdns.
[Resolve]
DNS=$NODE_ADDRESS
Domains=~$CLUSTER_DOMAIN
END
        [ "$changed" = "$before" ] || systemctl restart systemd-resolved.service
        return
    fi
    if [ -d /etc/dhcp/dhclient-enter-hooks.d ]; then
        # dhclient writes /etc/resolv.conf by this function: from now on it writes clusterdns's upstreams.
        put "$DHCLIENT_HOOK" 644 <<END
# Written by install-node.
make_resolv_conf() {
    [ -n "\$new_domain_name_servers" ] || return 0
    for server in \$new_domain_name_servers; do echo "nameserver \$server"; done >$ETC/resolv.conf
    systemctl --no-block reload clusterdns.service 2>/dev/null || true
}
END
    fi
    put "$ETC/resolv.conf.node" 644 <<END
$RESOLVER_MARK
nameserver $NODE_ADDRESS
END
    if ! cmp -s "$ETC/resolv.conf.node" /etc/resolv.conf; then
        rm -f /etc/resolv.conf
        cp "$ETC/resolv.conf.node" /etc/resolv.conf
    fi
}

restore_resolver() {
    rm -f "$DHCLIENT_HOOK"
    if [ -e "$RESOLVED_DROP_IN" ]; then
        rm -f "$RESOLVED_DROP_IN"
        systemctl restart systemd-resolved.service || true
    fi
    grep -qF "$RESOLVER_MARK" /etc/resolv.conf 2>/dev/null || return 0
    rm -f /etc/resolv.conf
    if [ -e "$ETC/resolv.conf.before" ] || [ -L "$ETC/resolv.conf.before" ]; then
        cp -a "$ETC/resolv.conf.before" /etc/resolv.conf
    fi
}
