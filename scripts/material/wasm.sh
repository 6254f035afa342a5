#!/usr/bin/env bash
# Piece wasm: the functions of examples/functions as WASI preview 1 commands.
#
# With rustup's target wasm32-wasip1 where it is installed or can be added; else with Debian's packages
# of a newer rustc, unpacked into the build directory, and the standard library built from its source.
# WASM_TOOLCHAIN=debian skips rustup (to leave its toolchain as it is, or where it cannot download).
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/wasm
SOURCE=$ROOT/examples/functions
TARGET=wasm32-wasip1
FUNCTIONS=(lane road-sample toll)
KEY=$(key "$0" "$SOURCE" "$ROOT/rust-toolchain.toml" "${WASM_TOOLCHAIN:-}")
is_fresh wasm "$KEY" && exit 0
TOOLS=$MATERIAL/cache/rust-wasm
TARGET_DIR=$MATERIAL/cache/wasm-target
CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}

# Same bytes wherever it is built: no path of this machine gets into a module.
REMAP="--remap-path-prefix=$SOURCE=functions --remap-path-prefix=$CARGO_HOME=cargo --remap-path-prefix=$TOOLS=rust"

build_with_rustup() {
    say "wasm: building ${FUNCTIONS[*]} with rustup's $TARGET"
    cd "$SOURCE"
    RUSTFLAGS=$REMAP CARGO_TARGET_DIR=$TARGET_DIR \
        cargo build -q --locked --release --target "$TARGET"
}

# unpack_tools: Debian's rustc, cargo, the source of std (of 340 MB only the 60 that are needed),
# the C library underneath it, and a linker where rustup has none.
unpack_tools() {
    local packages debian_key
    local wanted=(rustc-web cargo-web libstd-rust-web-dev rust-web-src wasi-libc)
    linker >/dev/null || wanted+=(lld-19)
    packages=$(deb_closure "${wanted[@]}")
    debian_key=$(key "$0" "$packages")
    is_fresh rust-wasm "$debian_key" && [ -d "$TOOLS" ] && return
    # shellcheck disable=SC2086
    deb_fetch $packages
    say "wasm: unpacking Debian's rustc (takes a few seconds)"
    stage "$TOOLS"
    # shellcheck disable=SC2046
    deb_unpack "$TOOLS.part" $(printf '%s\n' "$packages" | grep -vx rust-web-src)
    dpkg-deb --fsys-tarfile "$(deb_path rust-web-src)" |
        tar -x -C "$TOOLS.part" --wildcards './usr/src/rustc-*/library' './usr/lib/rustlib/src'
    rm -rf "$TOOLS.part/usr/share"
    publish "$TOOLS"
    mark_fresh rust-wasm "$debian_key"
}

# linker: LLVM's, which rustup's toolchains bring along, or Debian's.
linker() {
    local found
    for found in "$(cd "$ROOT" && rustc --print sysroot 2>/dev/null)"/lib/rustlib/*/bin/rust-lld "$TOOLS"/usr/lib/llvm-*/bin/wasm-ld; do
        [ -x "$found" ] && printf '%s\n' "$found" && return
    done
    return 1
}

build_with_debian() {
    local wasi=$TOOLS/usr/lib/wasm32-wasi libraries
    libraries=$(find "$TOOLS/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    say "wasm: building ${FUNCTIONS[*]} and the standard library with Debian's $(LD_LIBRARY_PATH=$libraries "$TOOLS/usr/bin/rustc" -V) (a minute or two)"
    cd "$SOURCE"
    # -Zbuild-std is open to stable compilers by this variable; the source fits the compiler exactly.
    env -u RUSTUP_TOOLCHAIN RUSTC_BOOTSTRAP=1 RUSTC="$TOOLS/usr/bin/rustc" \
        LD_LIBRARY_PATH="$libraries" CARGO_TARGET_WASM32_WASIP1_LINKER="$(linker)" \
        RUSTFLAGS="$REMAP -C link-self-contained=no -C link-arg=$wasi/crt1-command.o -L $wasi" \
        CARGO_TARGET_DIR="$TARGET_DIR" \
        "$TOOLS/usr/bin/cargo" build -q --locked --release --target "$TARGET" -Zbuild-std=std,panic_abort
}

mkdir -p "$MATERIAL/cache"
if [ "${WASM_TOOLCHAIN:-}" != debian ] && rust_target "$TARGET"; then
    build_with_rustup
else
    say "wasm: no $TARGET from rustup, so with Debian's rustc, unpacked"
    unpack_tools
    build_with_debian
fi || die "the functions could not be built" "cargo's message is above" "delete $TARGET_DIR and run again"

stage "$OUT"
for name in "${FUNCTIONS[@]}"; do
    cp "$TARGET_DIR/$TARGET/release/$name.wasm" "$OUT.part/"
done
publish "$OUT"
mark_fresh wasm "$KEY"
say "wasm: $(cd "$OUT" && du -h -- *.wasm | awk '{ printf "%s %s  ", $2, $1 }')"
