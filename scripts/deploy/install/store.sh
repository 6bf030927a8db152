# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by install-node: the store machine, and what it hands to nodes.

issue() { # USER [GROUP]: print a kubeconfig
    "$PREFIX/bin/kubeproxy" apiserver kubeconfig --cert-dir="$PKI" \
        --server="https://$STORE_ADDRESS:$API_PORT" --user="$1" ${2:+--group="$2"}
}

# Keep a kubeconfig of this machine; a certificate lasts a year, and is issued anew when half of it is over.
keep_credentials() { # FILE OWNER USER [GROUP]
    local text
    if [ -n "$(find "$1" -mtime -180 2>/dev/null)" ] && grep -qF "https://$STORE_ADDRESS:$API_PORT" "$1"; then
        return
    fi
    text=$(issue "${@:3}") || die "could not issue credentials for $3"
    put "$1" 600 "$2" <<<"$text"
}

install_store() {
    STORE_ADDRESS=${address:-$(own_address 192.0.2.1)}
    check_address "$STORE_ADDRESS"
    install_debian curl:curl
    install_package
    install_etcd
    add_user kubeproxy-etcd
    add_user kubeproxy-api
    write_settings
    link_commands
    start_units kubeproxy-etcd kubeproxy-apiserver
    wait_for 120 "the API server does not answer" curl -ksSf "https://$STORE_ADDRESS:$API_PORT/readyz"
    keep_credentials "$ETC/admin.conf" root:root kubernetes-admin system:masters
    keep_credentials "$ETC/controllers.conf" kubeproxy-api:kubeproxy-api system:kube-controller-manager
    start_units kubeproxy-controllers
    say "the store is ready: kubectl --kubeconfig=$ETC/admin.conf get nodes"
}

write_join_file() { # NODE
    check_node_name "$1"
    [ -e "$ETC/admin.conf" ] || die "this machine is not the store: install-node --role store comes first"
    [ ! -t 1 ] || die "the join file holds keys: send the output to a file"
    local directory name
    umask 077
    directory=$(mktemp -d)
    read_settings <"$ETC/cluster.env"
    NODE_NAME=$1
    for name in $SETTINGS; do
        echo "$name=${!name}"
    done >"$directory/cluster.env"
    issue "system:node:$1" system:nodes >"$directory/kubelet.conf"
    issue system:kube-proxy >"$directory/kube-proxy.conf"
    issue system:serviceaccount:kube-system:coredns >"$directory/clusterdns.conf"
    issue system:serviceaccount:kube-flannel:flannel >"$directory/flanneld.conf"
    tar -C "$directory" -c cluster.env kubelet.conf kube-proxy.conf clusterdns.conf flanneld.conf
    rm -rf "$directory"
}
