# Shared helpers of the scripts: messages, Debian packages without root, PyPI packages, stamps.
#
# Source it: `. "$(dirname "$0")/lib.sh"`. It sets
#   ROOT      the repository
#   BUILD     the build directory: $VERGE_BUILD, or target/ in the repository
#   MATERIAL  $BUILD/material, where everything that is downloaded, unpacked or built here goes
# and nothing outside $BUILD is ever written.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${VERGE_BUILD:-target}
case $BUILD in /*) ;; *) BUILD=$ROOT/$BUILD ;; esac
MATERIAL=$BUILD/material
export ROOT BUILD MATERIAL
PATH=$PATH:/usr/sbin:/sbin # where an ordinary user's PATH does not look: chroot

# say TEXT...: one progress line on stderr, so that stdout stays free for results.
say() { printf '==> %s\n' "$*" >&2; }

# die WHAT WHY FIX: ends the script with a message that an operator can act on.
die() {
    printf 'error: %s\n  why: %s\n  fix: %s\n' "$1" "${2:-unknown}" "${3:-see the lines above}" >&2
    exit 1
}

# need COMMAND PACKAGE: the command must exist; PACKAGE is the Debian package to name otherwise.
need() {
    command -v "$1" >/dev/null 2>&1 ||
        die "command $1 not found" "the script cannot work without it" "install the Debian package $2"
}

# ---- stamps: a piece is built once and again only when something it is made of changes ----

# key FILE_OR_TEXT...: a digest over the contents of the files (directories: of all files in them)
# and over the words that name no file.
key() {
    local item
    for item in "$@"; do
        if [ -d "$item" ]; then
            (cd "$item" && find . -name target -prune -o -name __pycache__ -prune -o -type f -print0 |
                sort -z | xargs -0 sha256sum)
        elif [ -f "$item" ]; then
            sha256sum <"$item"
        else
            printf '%s\n' "$item"
        fi
    done | sha256sum | cut -d' ' -f1
}

# is_fresh PIECE KEY: true when PIECE was last finished with this key.
is_fresh() { [ "$(cat "$MATERIAL/.done/$1" 2>/dev/null)" = "$2" ]; }

# mark_fresh PIECE KEY
mark_fresh() {
    mkdir -p "$MATERIAL/.done"
    printf '%s\n' "$2" >"$MATERIAL/.done/$1"
}

# stage DIR: an empty DIR.part to build in. publish DIR: puts DIR.part in its place.
stage() {
    rm -rf "$1.part"
    mkdir -p "$1.part"
}
publish() {
    rm -rf "$1"
    mv "$1.part" "$1"
}

# size PATH: for progress lines, such as 41M.
size() { du -sh "$1" | cut -f1; }

# ---- Debian packages, with a private state of apt: no root, no earlier `apt-get update` ----

# apt TOOL ARGUMENT...: apt-get or apt-cache on the private state. DEB_STATUS chooses what counts as
# installed: the machine's own list, or /dev/null for nothing.
apt() {
    local tool=$1 dir=$MATERIAL/cache/apt
    shift
    "$tool" -o "Dir::State=$dir/state" -o "Dir::State::status=${DEB_STATUS:-/var/lib/dpkg/status}" \
        -o "Dir::Cache=$dir/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=2 "$@"
}

# apt_update [force]: fetches the package lists, once per build directory.
apt_update() {
    local dir=$MATERIAL/cache/apt
    [ "${1:-}" = force ] || [ ! -e "$dir/updated" ] || return 0
    need apt-get apt
    need dpkg-deb dpkg
    mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial"
    say "reading Debian's package lists"
    # A third-party source that is down must not stop us; whether Debian's own answered shows below.
    apt apt-get -qq update >"$dir/update.log" 2>&1 || true
    apt apt-cache show libc6 >/dev/null 2>&1 ||
        die "no package lists from Debian" "$(tail -n 1 "$dir/update.log")" \
            "check the network and the sources in /etc/apt (log: $dir/update.log)"
    touch "$dir/updated"
}

# deb_path PACKAGE: the downloaded file; fails when there is none.
deb_path() {
    local found=("$MATERIAL/cache/deb/${1}"_*.deb)
    [ -e "${found[-1]}" ] && printf '%s\n' "${found[-1]}"
}

# deb_fetch PACKAGE...: downloads what is not there yet, verified by apt against the signed lists.
deb_fetch() {
    local package missing=() dir=$MATERIAL/cache/deb
    for package in "$@"; do
        deb_path "$package" >/dev/null || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    apt_update
    say "downloading ${#missing[@]} package(s) from Debian: ${missing[*]}"
    mkdir -p "$dir"
    deb_download "${missing[@]}" || {
        apt_update force # the lists may be older than the archive
        deb_download "${missing[@]}"
    } || die "Debian packages could not be downloaded: ${missing[*]}" "$(tail -n 1 "$dir/download.log")" \
        "check the network and the sources in /etc/apt (log: $dir/download.log)"
}

deb_download() {
    local dir=$MATERIAL/cache/deb part
    part=$(mktemp -d "$dir/part.XXXXXX")
    if (cd "$part" && apt apt-get -qq download "$@") >"$dir/download.log" 2>&1; then
        mv "$part"/*.deb "$dir/" && rmdir "$part"
    else
        rm -rf "$part"
        return 1
    fi
}

# deb_unpack DIR PACKAGE...: fetches and unpacks into DIR, without running any package script.
deb_unpack() {
    local dir=$1 package
    shift
    deb_fetch "$@"
    mkdir -p "$dir"
    for package in "$@"; do
        dpkg-deb -x "$(deb_path "$package")" "$dir" ||
            die "package $package could not be unpacked" "dpkg-deb failed on $(deb_path "$package")" \
                "free some disk space, delete that file and run again"
    done
}

# deb_closure PACKAGE...: the names of these packages and of all they depend on that this machine
# lacks (with DEB_STATUS=/dev/null: of all they depend on).
deb_closure() {
    apt_update
    apt apt-get -qq -s --no-install-recommends install "$@" 2>"$MATERIAL/cache/apt/closure.log" |
        awk '$1 == "Inst" { print $2 }' | sort -u | grep . ||
        die "no way to get the Debian packages $*" "$(tail -n 1 "$MATERIAL/cache/apt/closure.log")" \
            "this release may not carry them: see the README for the supported releases"
}

# ---- Rust for another machine ----

# rust_target TARGET: the toolchain in use can build for TARGET, if need be after asking rustup, in a bounded time.
rust_target() {
    has_rust_target "$1" && return
    command -v rustup >/dev/null || return 1
    say "asking rustup for the target $1"
    mkdir -p "$MATERIAL/cache"
    (cd "$ROOT" && timeout 120 rustup target add "$1") >"$MATERIAL/cache/rustup.log" 2>&1 && has_rust_target "$1"
}

has_rust_target() {
    local libraries
    libraries=$(cd "$ROOT" && rustc --print target-libdir --target "$1" 2>/dev/null) && [ -d "$libraries" ]
}

# ---- PyPI packages ----

# python: the interpreter for host-side tools: $PYTHON or the first python3 of 3.10 or newer; where there is none,
# Debian's, unpacked.
python() {
    local candidate
    for candidate in ${PYTHON:-} python3 /usr/bin/python3; do
        # That one does not find its libraries under its own name.
        [ "$candidate" != "$MATERIAL/cache/host-python/python3" ] || break
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    unpacked_python
}

# unpacked_python: Debian's python3 with its libraries, behind a script that finds them.
unpacked_python() {
    local dir=$MATERIAL/cache/host-python packages
    if [ ! -x "$dir/python3" ]; then
        say "no Python 3.10 or newer here: unpacking Debian's"
        # All but the C library, of which there can be only one in a process.
        packages=$(DEB_STATUS=/dev/null deb_closure python3-minimal libpython3-stdlib |
            grep -vxE 'libc6|libc-bin|libgcc-s1|gcc-.*-base|dpkg|tar') || exit 1
        stage "$dir"
        # shellcheck disable=SC2086
        deb_unpack "$dir.part/root" $packages
        cat >"$dir.part/python3" <<'SH'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
for libraries in "$root"/usr/lib/*-linux-gnu "$root"/lib/*-linux-gnu; do
    [ ! -d "$libraries" ] || LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH
exec "$root/usr/bin/python3" "$@"
SH
        chmod +x "$dir.part/python3"
        "$dir.part/python3" -c 'import sys, ssl, zlib, ctypes; sys.exit(sys.version_info < (3, 10))' ||
            die "no Python 3.10 or newer found" "Debian's, unpacked, does not run or is older (its message is above)" \
                "install the Debian package python3, or set PYTHON"
        publish "$dir"
    fi
    printf '%s\n' "$dir/python3"
}

# pip ARGUMENT...: pip on that interpreter; without one installed, Debian's wheel of it, unpacked.
pip() {
    local interpreter wheel
    interpreter=$(python)
    if ! "$interpreter" -m pip --version >/dev/null 2>&1; then
        [ -d "$MATERIAL/cache/pip-wheel" ] || deb_unpack "$MATERIAL/cache/pip-wheel" python3-pip-whl
        wheel=$(echo "$MATERIAL"/cache/pip-wheel/usr/share/python-wheels/pip-*.whl)
    fi
    PYTHONPATH=${wheel:-} PIP_CACHE_DIR=$MATERIAL/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 \
        PIP_ROOT_USER_ACTION=ignore PIP_NO_WARN_SCRIPT_LOCATION=1 "$interpreter" -m pip -q "$@"
}

# pip_target DIR REQUIREMENT...: installs into DIR (wheels only, nothing is compiled).
pip_target() {
    local dir=$1
    shift
    say "installing from PyPI: $*"
    pip install --only-binary=:all: --target "$dir" "$@" ||
        die "PyPI packages could not be installed: $*" "pip failed, its message is above" \
            "check the network; behind a mirror set PIP_INDEX_URL"
}

# pip_wheel DIR REQUIREMENT...: downloads the wheel itself, without dependencies. Options may precede.
pip_wheel() {
    local dir=$1
    shift
    say "downloading from PyPI: ${*: -1}"
    pip download --no-deps --only-binary=:all: --dest "$dir" "$@" ||
        die "PyPI package could not be downloaded: $*" "pip failed, its message is above" \
            "check the network; behind a mirror set PIP_INDEX_URL"
}
