# shellcheck shell=bash disable=SC2154
# Sourced by install-node: a node, from the store's join file.

readonly JOIN_PARTS="cluster.env kubelet.conf kube-proxy.conf clusterdns.conf flanneld.conf"

read_join_file() {
    [ -n "$join" ] || die "--role node needs --join FILE: make it on the store with install-node --join-file NAME"
    # shellcheck disable=SC2086
    tar -xOf "$join" $JOIN_PARTS >/dev/null 2>&1 ||
        die "$join is no join file: make it on the store with install-node --join-file NAME"
    tar -xOf "$join" cluster.env | read_settings
    [ -z "$mode" ] || MODE=$mode
    check_settings
    check_node_name "$NODE_NAME"
    is_ipv4 "$STORE_ADDRESS" || die "$join names no store"
}

write_credentials() {
    local part owner
    for part in kubelet kube-proxy clusterdns flanneld; do
        owner=root
        [ "$part" != clusterdns ] || owner=kubeproxy-dns
        tar -xOf "$join" "$part.conf" | put "$ETC/$part.conf" 600 "$owner:$owner"
    done
}

write_configuration() {
    put "$ETC/config.yaml" 644 <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $MODE
clusterCIDR: $POD_NETWORK
hostnameOverride: $NODE_NAME
clientConnection:
  kubeconfig: $ETC/kube-proxy.conf
END
    put "$ETC/net-conf.json" 644 <<END
{"Network": "$POD_NETWORK", "Backend": {"Type": "$OVERLAY"}}
END
    put "$ETC/Corefile" 644 <<END
.:53 {
    bind $NODE_ADDRESS
    errors
    kubernetes $CLUSTER_DOMAIN in-addr.arpa ip6.arpa {
        kubeconfig $ETC/clusterdns.conf
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus 127.0.0.1:9153
    forward . $ETC/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
END
}

write_sysctls() {
    local text
    put /etc/sysctl.d/90-kubeproxy.conf 644 <<'END'
# Written by install-node: a node forwards, and pods are reached point to point.
net.ipv4.ip_forward = 1
net.ipv4.conf.all.rp_filter = 2
net.ipv4.conf.default.rp_filter = 2
END
    if [ ! -e "$ETC/sysctl.before" ]; then
        text=$(sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv4.conf.default.rp_filter)
        put "$ETC/sysctl.before" 644 <<<"$text"
    fi
    sysctl -q -p /etc/sysctl.d/90-kubeproxy.conf
}

resolves() { # NAME, by this node's clusterdns
    [ -n "$(dig +short +tries=1 +time=2 "@$NODE_ADDRESS" "$1")" ]
}

install_node() {
    read_join_file
    NODE_ADDRESS=${address:-$(own_address "$STORE_ADDRESS")}
    check_address "$NODE_ADDRESS"
    install_debian iptables:iptables ipset:ipset ipvsadm:ipvsadm modprobe:kmod sysctl:procps curl:curl \
        dig:bind9-dnsutils
    add_user kubeproxy-dns
    install_package
    write_settings
    write_credentials
    write_configuration
    write_sysctls
    link_commands
    keep_upstream_resolver
    # shellcheck disable=SC2086
    start_units $NODE_UNITS
    wait_for 120 "clusterdns does not answer on $NODE_ADDRESS" resolves "kubernetes.default.svc.$CLUSTER_DOMAIN"
    use_cluster_resolver
    wait_for 120 "flanneld has no subnet" test -e /run/flannel/subnet.env
    wait_for 120 "kubeproxy is not ready" curl -sSf http://127.0.0.1:10256/healthz
    say "node $NODE_NAME is ready at $NODE_ADDRESS"
}
