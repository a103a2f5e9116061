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

# apt_of RELEASE DIR: sets APT to options by which apt-get and apt-cache know that release of Debian, with its security
# updates, and nothing else; for this machine's packages nothing changes. Keeps their lists in DIR.
APT=()
apt_of() {
    local release=$1 dir=$2 mirror signed='signed-by=/usr/share/keyrings/debian-archive-keyring.gpg'
    mirror=$(debian_mirror)
    if [ -z "$mirror" ]; then
        say "apt has no mirror of Debian set up"
        return 1
    fi
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    say "deb [$signed] $mirror $release main" >"$dir/sources.list"
    # Releases that are no longer stable get their updates from there alone.
    [ "$release" = sid ] ||
        say "deb [$signed] ${mirror%/debian*}/debian-security $release-security main" >>"$dir/sources.list"
    APT=(-qq -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=2
        -o Dir::State::lists="$dir/lists" -o Dir::Cache="$dir/cache" -o Dir::State::status=/dev/null
        -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null)
    if ! timeout 300 apt-get "${APT[@]}" update >"$dir/update.log" 2>&1; then
        say "apt-get update for Debian $release: $(tail -n 3 "$dir/update.log")"
        return 1
    fi
}

# get_haproxy RELEASE: that release's HAProxy and the libraries that it needs, unpacked into target/haproxy/RELEASE, for
# tests that run it there by chroot. Says so where it cannot be had; those tests are skipped then.
get_haproxy() {
    local release=$1 folder=$ROOT/target/haproxy/$1 dir deb packages names
    dir=$(mktemp -d)
    if ! apt_of "$release" "$dir"; then
        rm -rf "$dir"
        [ ! -e "$folder/packages" ] || say "taking the HAProxy of Debian $release kept from before"
        return
    fi
    # Nothing is installed there, so that this is all it depends on. What its installation would run is not needed.
    packages=$(apt-get "${APT[@]}" -s --no-install-recommends install haproxy 2>"$dir/log" |
        sed -n 's/^Inst \(haproxy\|lib[^ ]*\|zlib[^ ]*\) (\([^ ]*\).*/\1 \2/p' | sort) || true
    if [ -n "$packages" ] && [ "$(cat "$folder/packages" 2>/dev/null)" = "$packages" ]; then
        rm -rf "$dir"
        say "HAProxy of Debian $release is here"
        return
    fi
    say "downloading HAProxy of Debian $release"
    mapfile -t names < <(cut -d ' ' -f 1 <<<"$packages")
    # In older releases what is in /usr there was at the root, too.
    mkdir -p "$dir/debs" "$dir/root/"{dev,usr/bin,usr/lib,usr/lib64,usr/sbin}
    ln -s usr/bin usr/lib usr/lib64 usr/sbin "$dir/root/"
    if ! (cd "$dir/debs" && timeout 300 apt-get "${APT[@]}" download "${names[@]}" &&
        for deb in *.deb; do
            dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$dir/root" || exit
        done) >>"$dir/log" 2>&1; then
        say "HAProxy of Debian $release cannot be had: $(tail -n 3 "$dir/log")"
        rm -rf "$dir"
        return
    fi
    say "$packages" >"$dir/root/packages"
    rm -rf "$folder" "$dir/root/usr/share/"{doc,man,locale}
    mkdir -p "${folder%/*}"
    mv "$dir/root" "$folder"
    rm -rf "$dir"
}

# get_aws_lc: AWS-LC's libraries and headers in target/aws-lc, for a test that is linked with them. Its sources come with a
# crate. Says so where it cannot be had; that test is skipped then.
AWS_LC_SYS=0.47.0
get_aws_lc() {
    local folder=$ROOT/target/aws-lc dir source
    if [ "$(cat "$folder/version" 2>/dev/null)" = $AWS_LC_SYS ]; then
        say "AWS-LC is here"
        return
    fi
    say "building AWS-LC, which takes some minutes"
    dir=$(mktemp -d)
    source=$dir/vendor/aws-lc-sys/aws-lc
    rm -rf "$folder"
    if ! (cd "$dir" && cargo init --quiet --vcs none --name get-aws-lc &&
        cargo add --quiet "aws-lc-sys@=$AWS_LC_SYS" && cargo vendor --quiet vendor &&
        cmake -S "$source" -B build -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$folder" \
            -DCMAKE_INSTALL_LIBDIR=lib -DDISABLE_GO=ON -DDISABLE_PERL=ON -DBUILD_TESTING=OFF -DBUILD_TOOL=OFF &&
        cmake --build build --parallel "$(nproc)" && cmake --install build) >"$dir/log" 2>&1 ||
        ! say $AWS_LC_SYS >"$folder/version"; then
        say "AWS-LC cannot be had: $(tail -n 3 "$dir/log")"
        rm -rf "$folder"
    fi
    rm -rf "$dir"
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

# lock_fuzz: the fuzz targets, which are a workspace of their own, get the same versions as the program itself.
lock_fuzz() {
    cp "$ROOT/Cargo.lock" "$ROOT/tests/fuzz/Cargo.lock"
}

# clippy: of the program, its tests and the fuzz targets, which nothing else that is quick would compile.
clippy() {
    (cd "$ROOT" && cargo clippy --locked --all-targets -- -D warnings) || return 1
    if ! command -v c++ >/dev/null; then
        say "the fuzz targets are left out: they need a C++ compiler (g++)"
        return
    fi
    lock_fuzz
    cargo clippy --manifest-path "$ROOT/tests/fuzz/Cargo.toml" --target-dir "$ROOT/target" -- -D warnings
}

# bpf_compiles: the BPF programs, for each architecture. The headers of libbpf are those of the version that Cargo.lock
# names, as in the build.
bpf_compiles() {
    local libbpf_sys arch work status=0
    libbpf_sys=$(cargo metadata --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
        jq -r '.packages[] | select(.name == "libbpf-sys") | .manifest_path')
    [ -n "$libbpf_sys" ] || return 1
    work=$(mktemp -d)
    ln -s "${libbpf_sys%/*}/libbpf/src" "$work/bpf"
    for arch in x86_64:x86 aarch64:arm64; do
        say "bpf/sidetap.bpf.c for ${arch%:*}"
        clang -target bpf -g -O2 -D"__TARGET_ARCH_${arch#*:}" -Wall -Werror -I"vmlinux/${arch%:*}" -Ibpf -I"$work" \
            -c bpf/sidetap.bpf.c -o "$work/${arch%:*}.o" || status=1
    done
    rm -r "$work"
    return "$status"
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
