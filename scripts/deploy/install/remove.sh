# shellcheck shell=bash disable=SC2154
# Sourced by install-node: --uninstall, which leaves nothing but Debian packages.

remove_pods() {
    local netns
    for netns in $(ip netns list | sed -n 's/^\(pod-[^ ]*\).*/\1/p'); do
        ip netns pids "$netns" | xargs -r kill -KILL || true
        ip netns delete "$netns" || true
    done
}

remove_overlay() {
    local device command rule
    for device in flannel.1 flannel0; do
        ip link delete "$device" 2>/dev/null || true
    done
    for command in iptables-nft iptables-legacy; do
        command -v "$command" >/dev/null || continue
        # Rules are read as words: their comments hold no spaces that count.
        "$command" -t nat -S POSTROUTING 2>/dev/null | grep -w FLANNEL-POSTRTG |
            while read -r _ rule; do xargs "$command" -t nat -D <<<"$rule"; done || true
        "$command" -S FORWARD 2>/dev/null | grep -w FLANNEL-FWD |
            while read -r _ rule; do xargs "$command" -D <<<"$rule"; done || true
        for rule in "nat FLANNEL-POSTRTG" "filter FLANNEL-FWD"; do
            "$command" -t "${rule% *}" -F "${rule#* }" 2>/dev/null || continue
            "$command" -t "${rule% *}" -X "${rule#* }" || true
        done
    done
}

uninstall() {
    local unit user command
    for unit in $NODE_UNITS $STORE_UNITS; do
        [ ! -e "$UNITS/$unit.service" ] || systemctl disable --quiet --now "$unit.service" || true
    done
    restore_resolver
    remove_pods
    if [ -e "$ETC/config.yaml" ]; then
        "$PREFIX/bin/kubeproxy" cleanup >&2 || say "kubeproxy cleanup left something in the kernel"
        remove_overlay
    fi
    [ ! -e "$ETC/sysctl.before" ] || sysctl -q -p "$ETC/sysctl.before" || true
    rm -f /etc/sysctl.d/90-kubeproxy.conf
    for unit in $NODE_UNITS $STORE_UNITS; do
        rm -f "$UNITS/$unit.service"
    done
    systemctl daemon-reload
    for command in $COMMANDS; do
        [ "$(readlink "/usr/local/bin/$command")" != "$PREFIX/bin/$command" ] || rm -f "/usr/local/bin/$command"
    done
    for user in kubeproxy-etcd kubeproxy-api kubeproxy-dns; do
        ! id "$user" >/dev/null 2>&1 || userdel "$user"
    done
    rm -rf "$PREFIX" "$ETC" /var/lib/kubeproxy-etcd /var/lib/kubeproxy-apiserver /run/flannel /run/kubeproxy-kubelet
    say "everything is removed; Debian packages stay"
}
