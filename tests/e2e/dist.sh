#!/usr/bin/env bash
# Releases: the aarch64 programs run (QEMU's user-mode emulation), tarballs are whole and reproducible, the unit
# is one that systemd understands. Programs of the dev profile stand in for those of a release.
# tests: P6-01, P6-02, P6-03
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${VERGE_BUILD:-target}")
export VERGE_BUILD=$build CARGO_TARGET_DIR=$build
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
programs=(verge verge-host verge-sim)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
ok() { echo "ok $1"; }
fail() {
    echo "FAIL $1: $2"
    status=1
}

# expect NAME WANTED GOT
expect() { if [ "$2" = "$3" ]; then ok "$1"; else fail "$1" "expected '$2', got '$3'"; fi; }

# holds NAME TEXT WORD...: every word stands in the text.
holds() {
    local name=$1 text=$2 word
    shift 2
    for word in "$@"; do
        grep -qF -- "$word" <<<"$text" || { fail "$name" "'$word' is not in: $text" && return; }
    done
    ok "$name"
}

# ---- aarch64 ----

# Unoptimised: what runs here is short, and the build is most of this test's time. By a flag for the target, not by
# the profile: so build scripts and macros stay those of the build for this machine.
build_aarch64() {
    scripts/material.sh cross
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C opt-level=0" "$build/material/cross/bin/cargo-aarch64" build \
        --locked -p obu-runtime -p obu-host -p sim --bins 2>&1 | tail -3
}

manifest() {
    printf '%s\n' 'apiVersion: verge/v1' 'apps:' '  speed:' '    bundle: ./' "    $1: [/app/speed]" \
        '    resources: {cpu: 100m, memory: 16Mi}'
}

try_aarch64() {
    local bin=$build/aarch64-unknown-linux-gnu/debug code=0 out program
    # From there, so that messages name short paths and are not folded.
    run() { (cd "$work" && "$build/material/cross/bin/run-aarch64" "$bin/$1" "${@:2}" 2>&1); }
    for program in "${programs[@]}"; do
        expect "aarch64: $program --version" "$program $version" "$(run "$program" --version)"
    done
    out=$(run verge doctor) || code=$?
    expect "aarch64: verge doctor ends well" 0 "$code"
    holds "aarch64: verge doctor names program and kernel" "$out" "$version for aarch64" "$(uname -r)" "$bin/verge-host"

    manifest command >"$work/good.yaml"
    manifest comand >"$work/typo.yaml"
    code=0
    out=$(run verge validate good.yaml) || code=$?
    expect "aarch64: verge validate of a good manifest" "0 good.yaml: ok" "$code $out"
    code=0
    out=$(run verge validate typo.yaml) || code=$?
    expect "aarch64: verge validate of a typo fails" 1 "$code"
    # shellcheck disable=SC2016 # no command, but what the message has
    holds "aarch64: ... with line, column and suggestion" "$out" "typo.yaml:5:5" 'unknown key `comand`' 'did you mean `command`?'
}

# ---- tarballs ----

# try_tarball ARCH BIN RUNNER...: packed twice from programs that are there, unpacked, run.
try_tarball() {
    local arch=$1 bin=$2 name=verge-$version-$1-linux program dir=$work/unpacked
    shift 2
    mkdir -p "$work/bin-$arch" "$dir"
    for program in "${programs[@]}"; do
        # The symbols of a dev build would be most of the time that packing takes.
        "$strip_tool" -o "$work/bin-$arch/$program" "$bin/$program"
    done
    scripts/dist.sh --from "$work/bin-$arch" --to "$work/once" "$arch"
    (umask 077 && touch "$work/bin-$arch"/* && scripts/dist.sh --from "$work/bin-$arch" --to "$work/again" "$arch")
    expect "$arch: the same programs give the same tarball" \
        "$(sha256sum <"$work/once/$name.tar.gz")" "$(sha256sum <"$work/again/$name.tar.gz")"
    tar -xzf "$work/once/$name.tar.gz" -C "$dir"
    expect "$arch: what is in it" "$(expected_files)" "$(cd "$dir/$name" && find . -type f | sort)"
    expect "$arch: owner and mode" "0/0 -rwxr-xr-x" \
        "$(tar --numeric-owner -tvzf "$work/once/$name.tar.gz" "$name/bin/verge" | awk '{ print $2, $1 }')"
    expect "$arch: the program in it runs" "verge $version" "$("$@" "$dir/$name/bin/verge" --version)"
    expect "$arch: the example node file is valid" "$dir/$name/node.toml: ok" \
        "$("$@" "$dir/$name/bin/verge" validate "$dir/$name/node.toml")"
}

expected_files() {
    printf './%s\n' bin/verge bin/verge-host bin/verge-sim systemd/verge-host.service \
        docs/{INSTALL,ISLAND,MANIFEST,NODE}.md {ARCHITECTURE,CHANGELOG,CONTRIBUTING,README,SPECIFICATION}.md LICENSE \
        node.toml | sort
}

try_sums() {
    if (cd "$work/once" && sha256sum --check --quiet --strict SHA256SUMS); then ok "SHA256SUMS"; else fail "SHA256SUMS" "wrong"; fi
    expect "SHA256SUMS lists both" 2 "$(wc -l <"$work/once/SHA256SUMS")"
    local out code=0
    out=$(scripts/dist.sh --from "$work/bin-x86_64" --to "$work/mixed" aarch64 2>&1) || code=$?
    expect "programs of another architecture are refused" 1 "$code"
    holds "... by name" "$out" "is not for aarch64" "x86_64"
}

# ---- systemd ----

# analyze ROOT: what systemd-analyze says of the unit, installed there; it says nothing if all is well, and ends
# with 0 on a key that it does not know.
analyze() {
    local tool=(systemd-analyze) dir=$build/material/cache/systemd
    if ! command -v systemd-analyze >/dev/null; then
        # shellcheck disable=SC2016 # expanded by the inner shell
        [ -d "$dir" ] || bash -c '. scripts/lib.sh && packages=$(deb_closure systemd) && deb_unpack "$1" $packages' _ "$dir" >&2
        tool=(env "LD_LIBRARY_PATH=$(find "$dir" -regex '.*\.so[.0-9]*' -printf '%h\n' | sort -u | paste -sd:)" "$dir/usr/bin/systemd-analyze")
    fi
    "${tool[@]}" verify --man=no --root="$1" verge-host.service 2>&1 || echo "exit code $?"
}

try_unit() {
    local root=$work/root units=$work/root/etc/systemd/system target
    mkdir -p "$units" "$root/usr/bin"
    cp "$work/unpacked/verge-$version-x86_64-linux/bin/verge" "$root/usr/bin/"
    for target in sysinit basic shutdown network multi-user; do echo '[Unit]' >"$units/$target.target"; done
    cp packaging/systemd/verge-host.service "$units/"
    expect "systemd-analyze verify: verge-host.service" "" "$(analyze "$root")"
    sed -i 's/^KillMode/KilMode/' "$units/verge-host.service"
    holds "systemd-analyze verify would tell a typo" "$(analyze "$root")" "KilMode"
}

strip_tool="strip"
try_tarball x86_64 "$build/debug"
build_aarch64
try_aarch64
strip_tool=$build/material/cross/bin/aarch64-linux-gnu-strip
try_tarball aarch64 "$build/aarch64-unknown-linux-gnu/debug" "$build/material/cross/bin/run-aarch64"
try_sums
try_unit
exit $status
