#!/usr/bin/env bash
# Release tarballs: $BUILD/dist/verge-VERSION-ARCH-linux.tar.gz and their SHA256SUMS.
#
#   scripts/dist.sh [ARCH...]                  builds and packs; ARCH is x86_64 or aarch64, default both
#   scripts/dist.sh --from BIN --to DIR ARCH   packs the programs of the directory BIN, builds nothing
#
# The same programs and the same commit give the same bytes: names are sorted, times are the commit's (or
# SOURCE_DATE_EPOCH), owner is 0, and no path of the building machine gets into a program.
# aarch64 is cross-built on x86-64 with what scripts/material/cross.sh prepares. Needs no root.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PROGRAMS=(verge verge-host verge-sim)
PACKAGES=(-p obu-runtime -p obu-host -p sim)
VERSION=$(sed -n '/^\[workspace.package\]/,/^\[dependencies/ s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1)
[ -n "$VERSION" ] || die "no version found" "Cargo.toml has no version in [workspace.package]" "restore Cargo.toml"

# epoch: the time that everything in a tarball has.
epoch() {
    [ -n "${SOURCE_DATE_EPOCH:-}" ] && echo "$SOURCE_DATE_EPOCH" && return
    git -C "$ROOT" -c "safe.directory=$ROOT" log -1 --format=%ct 2>/dev/null ||
        die "the commit's time is not known" "$ROOT is no git checkout, or git is not installed" \
            "set SOURCE_DATE_EPOCH to seconds since 1970"
}

# machine FILE: the architecture of an ELF program, from its header.
machine() {
    case $(od -An -tx1 -N20 "$1" | tr -d ' \n') in
    7f454c46*3e00) echo x86_64 ;;
    7f454c46*b700) echo aarch64 ;;
    *) echo unknown ;;
    esac
}

# build ARCH: the programs in the release profile, in $BUILD/ARCH-unknown-linux-gnu/release.
build() {
    local arch=$1 target=$1-unknown-linux-gnu cargo cargo_home=${CARGO_HOME:-$HOME/.cargo} variable
    case $arch in
    "$(uname -m)") cargo=(cargo build --target "$target") ;;
    aarch64)
        "$ROOT/scripts/material.sh" cross || exit 1
        cargo=("$MATERIAL/cross/bin/cargo-aarch64" build)
        ;;
    *) die "$arch cannot be built here" "the cross compiler runs on x86-64 only" "build it on an $arch machine" ;;
    esac
    say "building for $arch in the release profile (many minutes the first time)"
    variable=CFLAGS_${target//-/_}
    (
        cd "$ROOT"
        export CARGO_TARGET_DIR=$BUILD
        export RUSTFLAGS="--remap-path-prefix=$ROOT=verge --remap-path-prefix=$cargo_home=cargo --remap-path-prefix=$BUILD=build"
        export "$variable=-ffile-prefix-map=$cargo_home=cargo -ffile-prefix-map=$BUILD=build"
        "${cargo[@]}" --locked --release "${PACKAGES[@]}" --bins
    ) || die "the build for $arch failed" "cargo's message is above" "see CONTRIBUTING.md for what a build needs"
    for program in "${PROGRAMS[@]}"; do
        for path in "$ROOT/" "$cargo_home/" "$BUILD/"; do
            ! grep -aqF "$path" "$BUILD/$target/release/$program" ||
                die "$program for $arch names $path" "a path of this machine got into it, so others cannot rebuild it" \
                    "add the missing --remap-path-prefix to scripts/dist.sh"
        done
    done
}

# glibc FILE...: the newest version of the C library that the programs ask for.
glibc() {
    command -v readelf >/dev/null || return 0
    readelf -V "$@" 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1 | sed 's/GLIBC_/, needs glibc /'
}

# pack BIN OUT ARCH
pack() {
    local bin=$1 out=$2 arch=$3 name=verge-$VERSION-$3-linux dir program
    dir=$out/$name
    for program in "${PROGRAMS[@]}"; do
        [ -f "$bin/$program" ] ||
            die "no $program in $bin" "it was not built" "cargo build ${PACKAGES[*]} --bins"
        [ "$(machine "$bin/$program")" = "$arch" ] ||
            die "$bin/$program is not for $arch" "its header says $(machine "$bin/$program")" "name the other directory"
    done
    mkdir -p "$out"
    stage "$dir"
    mkdir "$dir.part/bin" "$dir.part/systemd" "$dir.part/docs"
    for program in "${PROGRAMS[@]}"; do install -m 755 "$bin/$program" "$dir.part/bin/"; done
    install -m 644 "$ROOT"/packaging/systemd/* "$dir.part/systemd/"
    install -m 644 "$ROOT"/docs/*.md "$dir.part/docs/"
    install -m 644 "$ROOT"/{packaging/node.toml,LICENSE,README.md,ARCHITECTURE.md,SPECIFICATION.md,CONTRIBUTING.md,CHANGELOG.md} \
        "$dir.part/"
    publish "$dir"
    tar -c -C "$out" --sort=name --format=ustar --mtime="@$EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode='u=rwX,go=rX' "$name" | gzip -n -9 >"$out/$name.tar.gz.part"
    mv "$out/$name.tar.gz.part" "$out/$name.tar.gz"
    rm -rf "$dir"
    say "$name.tar.gz: $(size "$out/$name.tar.gz")$(glibc "$bin/verge" "$bin/verge-host")"
}

# sums OUT: over the tarballs of this version.
sums() { (cd "$1" && sha256sum "verge-$VERSION"-*-linux.tar.gz >SHA256SUMS); }

from='' to=$BUILD/dist
while [ $# -gt 0 ]; do
    case $1 in
    --from) from=${2:?} && shift 2 ;;
    --to) to=${2:?} && shift 2 ;;
    -*) die "unknown option $1" "this script knows --from and --to" "see its first lines" ;;
    *) break ;;
    esac
done
arches=("$@")
if [ $# = 0 ]; then
    arches=("$(uname -m)")
    [ "${arches[0]}" != x86_64 ] || arches+=(aarch64)
fi
for arch in "${arches[@]}"; do
    case $arch in
    x86_64 | aarch64) ;;
    *) die "no release for $arch" "Verge runs on x86_64 and aarch64" "name one of these" ;;
    esac
done
[ -z "$from" ] || [ ${#arches[@]} = 1 ] || die "--from wants one architecture" "a directory holds programs of one" "name it"

EPOCH=$(epoch)
for arch in "${arches[@]}"; do
    SECONDS=0
    if [ -z "$from" ]; then build "$arch"; fi
    pack "${from:-$BUILD/$arch-unknown-linux-gnu/release}" "$to" "$arch"
    [ $SECONDS -lt 10 ] || say "$arch took $SECONDS s"
done
sums "$to"
say "release tarballs and SHA256SUMS are in $to"
