# shellcheck shell=bash
#
# A Docker engine for scripts: installed where there is none that will do, started where none runs, and ended with the
# script if it was started by it. To be sourced after lib.sh.

# Before 23 an engine does not know CAP_BPF, and what is privileged asks for capabilities that the machine may not have.
ENGINE_OLDEST=23

# The release of Debian that has such an engine, for where the configured one has not. It needs nothing else from there.
ENGINE_RELEASE=trixie

# need_docker: dockerd, docker and `docker compose`, from Debian where they are missing.
need_docker() {
    local packages=(docker.io docker-cli docker-compose)
    if [ "$(major dockerd --version)" -ge $ENGINE_OLDEST ] && docker compose version >/dev/null 2>&1; then
        say "Docker is here"
        return
    fi
    command -v apt-get >/dev/null ||
        die "not a Debian system; install Docker $ENGINE_OLDEST or newer by hand, with its compose plugin"
    if [ "$(major apt-cache policy docker.io)" -ge $ENGINE_OLDEST ]; then
        apt_install "${packages[@]}"
    else
        install_from "$ENGINE_RELEASE" "${packages[@]}"
    fi
}

# major COMMAND...: the major version in "Docker version 26.1.5" or "Candidate: 26.1.5" of its output; 0 for none.
major() {
    local version=''
    version=$("$@" 2>/dev/null | sed -n 's/^.*\(Docker version\|Candidate:\) \([0-9]*\)\..*/\2/p') || true
    say "${version:-0}"
}

# install_from RELEASE PACKAGE...: from a release of Debian that apt is not set up for, and is not afterwards: for this
# one call it is added, ranking below all others, so that only the packages named come from there.
install_from() {
    local release=$1 folder mirror
    shift
    say "installing $* of Debian $release"
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "apt has no mirror of Debian set up; install by hand: $*"
    folder=$(mktemp -d)
    cp -r /etc/apt/sources.list.d "$folder/sources"
    cp -r /etc/apt/preferences.d "$folder/preferences"
    say "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" \
        >"$folder/sources/sidetap.list"
    printf 'Package: *\nPin: release n=%s\nPin-Priority: 100\n' "$release" >"$folder/preferences/sidetap"
    chmod -R a+rX "$folder" # apt reads some of it as another user
    apt_now -o "Dir::Etc::sourceparts=$folder/sources" -o "Dir::Etc::preferencesparts=$folder/preferences" \
        -- "${@/%//$release}"
    rm -rf "$folder"
}

# engine_start: a Docker engine that runs at least as long as this script does. Fails with a word on why.
engine_start() {
    if docker info >/dev/null 2>&1; then
        say "using the Docker engine that runs"
        return
    fi
    local log
    log=$(mktemp)
    start "$log" dockerd
    ENGINE_PID=$STARTED
    wait_for 60 "the Docker engine" engine_up_or_gone || true
    if ! docker info >/dev/null 2>&1; then
        say "the Docker engine did not start: $(tail -n 5 "$log")"
        return 1
    fi
    rm -f "$log"
    say "started the Docker engine (PID $ENGINE_PID)"
}

engine_up_or_gone() {
    docker info >/dev/null 2>&1 || ! kill -0 "$ENGINE_PID" 2>/dev/null
}
