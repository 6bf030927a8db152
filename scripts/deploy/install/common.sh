# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by install-node: messages, files, settings and units.

say() { echo "install-node: $*" >&2; }
die() { say "error: $*"; exit 1; }

# Write standard input to a file when it differs: put FILE MODE [OWNER]. `changed` counts the differences.
changed=0
put() {
    local fresh
    mkdir -p "$(dirname "$1")"
    fresh=$(mktemp "$(dirname "$1")/.new.XXXXXX")
    cat >"$fresh"
    chown "${3:-root:root}" "$fresh"
    chmod "$2" "$fresh"
    if cmp -s "$fresh" "$1" && [ "$(stat -c '%a %U:%G' "$fresh")" = "$(stat -c '%a %U:%G' "$1")" ]; then
        rm -f "$fresh"
    else
        mv -f "$fresh" "$1"
        changed=$((changed + 1))
    fi
}

is_ipv4() {
    [[ $1 =~ ^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})$ ]] || return 1
    local part
    for part in "${BASH_REMATCH[@]:1}"; do
        [ "$((10#$part))" -le 255 ] || return 1
    done
}

as_number() { # IPV4
    local a b c d
    IFS=. read -r a b c d <<<"$1"
    echo $((10#$a << 24 | 10#$b << 16 | 10#$c << 8 | 10#$d))
}

is_network() { # A.B.C.D/LENGTH with no bit set beyond the length
    is_ipv4 "${1%/*}" && [[ $1 =~ /([0-9]+)$ ]] || return 1
    local length=${BASH_REMATCH[1]}
    [ "$length" -ge 8 ] && [ "$length" -le 30 ] && [ $(($(as_number "${1%/*}") & ((1 << 32 - length) - 1))) = 0 ]
}

overlap() { # NETWORK NETWORK
    local length=${1#*/}
    [ "$length" -le "${2#*/}" ] || length=${2#*/}
    [ $(($(as_number "${1%/*}") >> 32 - length)) = $(($(as_number "${2%/*}") >> 32 - length)) ]
}

check_settings() {
    [[ $MODE =~ ^(iptables|ipvs|nftables|auto)$ ]] || die "--mode $MODE is none of iptables, ipvs, nftables, auto"
    [[ $OVERLAY =~ ^(vxlan|udp|host-gw)$ ]] || die "--overlay $OVERLAY is none of vxlan, udp, host-gw"
    [[ $CLUSTER_DOMAIN =~ ^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$ ]] || die "--domain $CLUSTER_DOMAIN is no DNS domain"
    [[ $API_PORT =~ ^[1-9][0-9]{0,4}$ ]] || die "--api-port $API_PORT is no port"
    if [ "$API_PORT" -lt 1024 ] || [ "$API_PORT" -gt 65535 ]; then
        die "--api-port $API_PORT is not between 1024 and 65535, and the API server does not run as root"
    fi
    is_network "$POD_NETWORK" || die "--pod-network $POD_NETWORK is no IPv4 network such as 10.244.0.0/16"
    [ "${POD_NETWORK#*/}" -le 24 ] || die "--pod-network $POD_NETWORK holds no /24, which is what each node gets"
    is_network "$SERVICE_NETWORK" || die "--service-network $SERVICE_NETWORK is no IPv4 network such as 10.96.0.0/12"
    ! overlap "$POD_NETWORK" "$SERVICE_NETWORK" || die "the networks of pods and Services overlap"
}

check_node_name() {
    [[ $1 =~ ^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$ ]] || die "'$1' is no node name: lower case letters, digits, - and ."
}

check_machine() {
    [ "$(id -u)" = 0 ] || die "must be run as root"
    command -v apt-get >/dev/null || die "there is no apt-get: this needs Debian or Ubuntu"
    [ -d /run/systemd/system ] || die "systemd does not run here, and the services are its units"
    command -v ip >/dev/null || die "there is no ip: apt-get install iproute2"
}

own_address() { # of this machine, on its way to ADDRESS
    local found
    found=$(ip -4 route get "$1" 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')
    [ -n "$found" ] || die "no route to $1: give this machine's address with --address"
    echo "$found"
}

check_address() {
    is_ipv4 "$1" || die "--address $1 is no IPv4 address"
    [ -n "$(ip -4 -o address show to "$1/32")" ] || die "--address $1 is on no interface of this machine"
}

write_settings() {
    local name text="# Written by install-node; the units read it. Run install-node again to change it."
    for name in $SETTINGS NODE_ADDRESS; do
        [ -z "${!name}" ] || text+=$'\n'"$name=${!name}"
    done
    put "$ETC/cluster.env" 644 <<<"$text"
}

read_settings() { # lines NAME=VALUE from standard input, known names only
    local name value
    while IFS='=' read -r name value; do
        [[ " $SETTINGS " != *" $name "* ]] || printf -v "$name" '%s' "$value"
    done
}

add_user() {
    id "$1" >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$1"
}

# Install the units, and start them; what runs already is restarted only when something changed.
start_units() {
    local unit
    for unit in "$@"; do
        put "$UNITS/$unit.service" 644 <"$here/deploy/systemd/$unit.service"
    done
    systemctl daemon-reload
    systemctl enable --quiet "$@"
    if [ "$changed" -gt 0 ]; then
        systemctl restart "$@"
    else
        systemctl start "$@"
    fi
}

wait_for() { # SECONDS COMPLAINT COMMAND...
    local deadline=$((SECONDS + $1)) complaint=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] ||
            die "$complaint; look at: journalctl -u 'kubeproxy*' -u flanneld -u clusterdns"
        sleep 0.3
    done
}
