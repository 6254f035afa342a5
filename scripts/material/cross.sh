#!/usr/bin/env bash
# Piece cross: what builds for aarch64 on x86-64, and runs it: Debian's cross compiler and C library, QEMU's
# user-mode emulation, and the standard library of Rust.
#
#   cross/bin/cargo-aarch64 COMMAND [ARGUMENT]...   cargo for the target aarch64-unknown-linux-gnu
#   cross/bin/run-aarch64 PROGRAM [ARGUMENT]...     runs an aarch64 program
#   cross/bin/aarch64-linux-gnu-gcc, -ar, -strip    what cargo is told to use, and what makes programs small
#
# Rust's target comes from rustup where it is installed or can be added; else Debian's newer rustc is unpacked.
# CROSS_TOOLCHAIN=debian skips rustup (to leave its toolchain as it is, or where it cannot download).
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/cross
TARGET=aarch64-unknown-linux-gnu
TRIPLET=aarch64-linux-gnu
GCC=gcc-$TRIPLET
RUST=$MATERIAL/cache/rust-cross
# Whatever is downloaded anew: the C compiler's sanitizers and the C++ library are not needed.
UNUSED='lib(asan|tsan|lsan|ubsan|hwasan|gomp|itm|atomic)[0-9]+-arm64-cross|libstdc\+\+[0-9]+-arm64-cross|.*-base'
[ "$(uname -m)" = x86_64 ] ||
    die "nothing to build for aarch64 with on $(uname -m)" "the cross compiler here runs on x86-64" \
        "build on x86-64, or natively with cargo build --release"

# choose_rust: whose Rust; the choice is part of what makes the piece fresh.
choose_rust() {
    [ "${CROSS_TOOLCHAIN:-}" != debian ] && rust_target "$TARGET" && echo rustup || echo debian
}
CHOICE=$(choose_rust)
KEY=$(key "$0" "$ROOT/scripts/lib.sh" "$ROOT/rust-toolchain.toml" "$CHOICE" "$OUT")
is_fresh cross "$KEY" && exit 0

# wrapper NAME LINE...: a small program in bin.
wrapper() {
    local file=$OUT.part/bin/$1
    shift
    printf '%s\n' '#!/bin/sh' "$@" >"$file"
    chmod 755 "$file"
}

unpack_gcc() {
    local packages
    packages=$(deb_closure "$GCC" libc6-dev-arm64-cross qemu-user-static | grep -vxE "$UNUSED")
    # shellcheck disable=SC2086 # a list of package names
    deb_fetch $packages
    say "cross: unpacking the cross compiler and QEMU's user-mode emulation"
    # shellcheck disable=SC2086
    deb_unpack "$OUT.part/root" $packages
    # Of the emulators only ours; of the compiler what a build needs.
    find "$OUT.part/root/usr/bin" -name 'qemu-*' ! -name qemu-aarch64-static -delete
    rm -rf "$OUT.part/root/usr/share" "$OUT.part"/root/usr/bin/*-lto-dump-*
}

# use_gcc: unpacked elsewhere than where it was made for, gcc finds its own parts beside itself; the C library's
# linker scripts it finds with --sysroot, and the assembler's and linker's libraries the loader with its variable.
use_gcc() {
    local root=$OUT/root
    local libraries="export LD_LIBRARY_PATH='$root/usr/lib/x86_64-linux-gnu'\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
    local compiler tool
    compiler=$(cd "$OUT.part/root/usr/bin" && echo "$TRIPLET"-gcc-[0-9]*)
    wrapper "$TRIPLET-gcc" "$libraries" "exec '$root/usr/bin/$compiler' --sysroot='$root' \"\$@\""
    for tool in ar strip; do
        wrapper "$TRIPLET-$tool" "$libraries" "exec '$root/usr/bin/$TRIPLET-$tool' \"\$@\""
    done
    wrapper run-aarch64 "exec '$root/usr/bin/qemu-aarch64-static' -L '$root/usr/$TRIPLET' \"\$@\""
}

# unpack_rust: Debian's rustc and cargo for this machine, and the standard library for both.
unpack_rust() {
    local packages both=(-o APT::Architectures::=amd64 -o APT::Architectures::=arm64) part=$MATERIAL/cache/deb-arm64
    packages=$(deb_closure rustc-web cargo-web libstd-rust-web-dev)
    # shellcheck disable=SC2086
    deb_fetch $packages
    say "cross: no $TARGET from rustup, so with Debian's rustc, unpacked"
    rm -rf "$part" && mkdir -p "$part"
    apt apt-get -qq update "${both[@]}" >"$part/log" 2>&1 || true
    (cd "$part" && apt apt-get -qq "${both[@]}" download libstd-rust-web-dev:arm64) >>"$part/log" 2>&1 ||
        die "Debian's libstd-rust-web-dev for arm64 could not be downloaded" "$(tail -n 1 "$part/log")" \
            "check the network and the sources in /etc/apt, or add rustup's target $TARGET"
    stage "$RUST"
    # shellcheck disable=SC2086
    deb_unpack "$RUST.part" $packages
    dpkg-deb -x "$part"/libstd-rust-web-dev_*_arm64.deb "$RUST.part"
    rm -rf "$RUST.part/usr/share" "$part"
    publish "$RUST"
}

use_rust() {
    local upper=AARCH64_UNKNOWN_LINUX_GNU lower=aarch64_unknown_linux_gnu cargo=cargo setup=()
    if [ "$CHOICE" = debian ]; then
        unpack_rust
        cargo=$RUST/usr/bin/cargo
        setup=("export RUSTC='$RUST/usr/bin/rustc'" "unset RUSTUP_TOOLCHAIN"
            "export LD_LIBRARY_PATH='$(find "$RUST/usr/lib" -path '*aarch64*' -prune -o -name '*.so*' -printf '%h\n' |
                sort -u | paste -sd:)'")
    fi
    wrapper cargo-aarch64 "${setup[@]}" \
        "export CARGO_TARGET_${upper}_LINKER='$OUT/bin/$TRIPLET-gcc'" \
        "export CARGO_TARGET_${upper}_RUNNER='$OUT/bin/run-aarch64'" \
        "export CC_$lower='$OUT/bin/$TRIPLET-gcc' AR_$lower='$OUT/bin/$TRIPLET-ar'" \
        "command=\$1; shift" \
        "exec '$cargo' \"\$command\" --target $TARGET \"\$@\""
}

# check: a C program with the headers and libraries that ours need is compiled and runs.
check() {
    local dir=$OUT/check
    mkdir -p "$dir"
    printf '%s\n' '#include <linux/can.h>' '#include <math.h>' '#include <pthread.h>' '#include <stdio.h>' \
        'int main(int n, char **v) { (void)v; printf("%d %.0f\n", CAN_MTU, cos(n - 1.0)); return 0; }' >"$dir/check.c"
    "$OUT/bin/$TRIPLET-gcc" -O1 "$dir/check.c" -o "$dir/check" -lm -lpthread &&
        [ "$("$OUT/bin/run-aarch64" "$dir/check")" = "16 1" ] ||
        die "the cross compiler does not work" "its message is above" \
            "delete $OUT and $MATERIAL/cache/deb and run again"
    rm -rf "$dir"
}

stage "$OUT"
mkdir -p "$OUT.part/bin"
unpack_gcc
use_gcc
use_rust
publish "$OUT"
check
mark_fresh cross "$KEY"
say "cross: gcc, C library and emulator for aarch64 ($(size "$OUT")), Rust from $CHOICE"
