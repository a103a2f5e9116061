# shellcheck shell=bash
#
# What the scripts of this folder share: saying how far they are, installing what is missing, finding the built binary,
# waiting for something to be true, and ending what they started (by process id, never by name).
# To be sourced after `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What a build needs beside Rust: clang for the BPF programs, static libelf and zlib, a C compiler for libbpf.
# shellcheck disable=SC2034  # used by the scripts that source this file
BUILD_PACKAGES=(ca-certificates clang llvm gcc libc6-dev make pkg-config libelf-dev zlib1g-dev jq)

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# step TEXT: "[3/7] TEXT". The script sets STEPS to how many there will be.
STEP=0
step() {
    STEP=$((STEP + 1))
    printf '\n[%d/%d] %s\n' "$STEP" "${STEPS:?the script sets how many steps it has}" "$*"
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "must run as root: it installs packages and loads BPF programs (try: sudo $0)"
}

# apt_install PACKAGE...: installs those that are missing; without a word to the network when none is.
apt_install() {
    local package missing=()
    for package; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        say "all packages are here"
        return
    fi
    command -v apt-get >/dev/null || die "not a Debian system; install by hand: ${missing[*]}"
    say "installing ${missing[*]}"
    apt_now -- "${missing[@]}"
}

# The mirror of Debian that apt is set up for; nothing where it has none.
debian_mirror() {
    # shellcheck disable=SC2016  # it is apt-get that expands it
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1
}

# apt_now [OPTION...] -- PACKAGE...: lets apt-get install these, with options for both its update and its install.
apt_now() {
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift

    # Packages of servers start them, and at each boot from then on. Both are refused: a demo must not leave
    # a web server on port 80 behind.
    local policy=/usr/sbin/policy-rc.d own_policy='' log status=0 package
    log=$(mktemp)
    if [ ! -e $policy ]; then
        own_policy=yes
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get update -q "${options[@]}" && apt-get install -q -y --no-install-recommends "${options[@]}" "$@"
    } >"$log" 2>&1 || status=$?
    [ -z "$own_policy" ] || rm -f $policy
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$log" >&2
        die "apt-get could not install $* (its output: $log)"
    fi
    rm -f "$log"
    for package in haproxy nginx-light:nginx nghttp2-proxy:nghttpx docker.io:docker; do
        if [[ " $* " == *" ${package%:*}"[\ /]* ]] && command -v systemctl >/dev/null; then
            systemctl disable --quiet "${package#*:}" 2>/dev/null || true
        fi
    done
}

# need_rust: cargo on the PATH, with rustfmt and clippy where rustup can add them.
need_rust() {
    if ! command -v cargo >/dev/null; then
        PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    fi
    command -v cargo >/dev/null || die "cargo not found; install Rust 1.89 or newer (https://rustup.rs), then run this again"
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        command -v rustup >/dev/null || die "cargo fmt or cargo clippy is missing, and rustup is not here to add them"
        rustup component add rustfmt clippy
    fi
}

# build_release: builds, and sets SIDETAP_BIN to the binary's path. Whoever set that before wants that one, unbuilt.
build_release() {
    if [ -n "${SIDETAP_BIN:-}" ]; then
        [ -x "$SIDETAP_BIN" ] || die "SIDETAP_BIN=$SIDETAP_BIN is not an executable file"
        say "using $SIDETAP_BIN as it is"
        return
    fi
    local messages status=0
    messages=$(mktemp)
    (cd "$ROOT" && cargo build --release --locked --message-format=json-render-diagnostics >"$messages") || status=$?
    # Cargo itself says where the binary is, whatever the target triple and the target directory are.
    [ "$status" -ne 0 ] || SIDETAP_BIN=$(jq -r \
        'select(.reason == "compiler-artifact" and .target.name == "sidetap") | .executable // empty' "$messages" |
        tail -n 1)
    rm -f "$messages"
    if [ ! -x "${SIDETAP_BIN:-}" ]; then
        say "the build failed"
        return 1
    fi
    say "built $SIDETAP_BIN"
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds. After SECONDS: says that WHAT did not happen, and fails.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            say "$what: waited in vain"
            return 1
        fi
        sleep 0.1
    done
}

# port_open PORT: whether something on this machine listens on TCP port PORT.
port_open() {
    [ -n "$(ss -Hltn "sport = :$1")" ]
}

# start LOG COMMAND...: in the background, output to LOG; its process id in STARTED. Ended by end_all.
PIDS=()
start() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null &
    STARTED=$!
    PIDS+=("$STARTED")
}

# end_pid PID: asks it to end, waits for up to ten seconds, then kills. Returns its exit status.
end_pid() {
    local pid=$1 tries=100 other left=()
    for other in "${PIDS[@]}"; do
        [ "$other" = "$pid" ] || left+=("$other")
    done
    PIDS=("${left[@]}")
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
            kill -KILL "$pid" 2>/dev/null || true
            break
        fi
        sleep 0.1
    done
    wait "$pid" 2>/dev/null
}

# end_all: ends what `start` started and is still there, the last one first.
end_all() {
    while [ ${#PIDS[@]} -gt 0 ]; do
        end_pid "${PIDS[-1]}" || true
    done
}
