# shellcheck shell=bash disable=SC2154
# Sourced by install-node: Debian's packages, the Python environment in /opt/kubeproxy, and etcd.

install_debian() { # COMMAND:PACKAGE...: the packages whose command is missing, and Python
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    if [ "${#missing[@]}" -gt 0 ]; then
        say "installing Debian packages: ${missing[*]}"
        apt-get update -qq >&2 || die "apt-get update failed"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
            die "apt-get could not install ${missing[*]}"
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$(python3 --version) is too old: Python 3.11 is needed (Debian 12, Ubuntu 24.04)"
}

# What the installation is made of: while it is the same, the installation is left as it is.
package_identity() {
    python3 --version
    cat "$source_tree/requirements.lock"
    if [ -n "$package" ]; then
        cat "$package"
    else
        (cd "$source_tree" && find pyproject.toml kubeproxy dns flannel -name __pycache__ -prune -o -type f -print0 |
            sort -z | xargs -0 sha256sum)
    fi
}

install_package() {
    local identity pip scratch
    identity=$(package_identity | sha256sum)
    [ "$(cat "$PREFIX/installed" 2>/dev/null)" != "$identity" ] || return 0
    say "installing the package into $PREFIX"
    pip=("$PREFIX/bin/pip" --quiet --disable-pip-version-check --no-cache-dir install)
    [ -z "$wheels" ] || pip+=(--no-index --find-links "$wheels")
    scratch=$(mktemp -d)
    python3 -m venv --clear "$PREFIX"
    "${pip[@]}" --require-hashes -r "$source_tree/requirements.lock" || die "pip could not install requirements.lock"
    if [ -z "$package" ]; then
        # A copy: building leaves files in the tree. Without its bytecode, which is another tree's.
        (cd "$source_tree" && tar -c --exclude=__pycache__ pyproject.toml README.md LICENSE kubeproxy dns flannel) |
            tar -x -C "$scratch"
    fi
    "${pip[@]}" --no-deps --no-build-isolation "${package:-$scratch}" ||
        die "pip could not install ${package:-$source_tree}"
    rm -rf "$scratch"
    # The services may not write there, so what Python compiles is compiled now.
    "$PREFIX/bin/python" -m compileall -q "$PREFIX/lib" || true
    echo "$identity" >"$PREFIX/installed"
    changed=$((changed + 1))
}

link_commands() {
    local command
    for command in $COMMANDS; do
        [ -e "/usr/local/bin/$command" ] || ln -sfn "$PREFIX/bin/$command" "/usr/local/bin/$command"
    done
}

install_etcd() {
    if [ -z "$etcd" ]; then
        ! systemctl is-active --quiet etcd.service || die "etcd.service runs here, and its ports are needed: stop it"
        if ! command -v etcd >/dev/null; then
            install_debian etcd:etcd-server
            systemctl disable --quiet --now etcd.service || true # Debian starts it; ours is kubeproxy-etcd.service
        fi
        etcd=$(command -v etcd)
    fi
    # A copy, which its user may run wherever the original is.
    put "$PREFIX/bin/etcd" 755 <"$etcd"
}
