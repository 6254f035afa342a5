#!/usr/bin/env bash
# Piece apps: the compiled apps of examples/apps, each a bundle directory beside its manifest.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/apps
SOURCE=$ROOT/examples/apps/heartbeat-rs
KEY=$(key "$0" "$SOURCE" "$ROOT/rust-toolchain.toml")
is_fresh apps "$KEY" && exit 0
need cargo cargo

say "apps: building heartbeat"
TARGET=$(cd "$ROOT" && rustc -vV | sed -n 's/^host: //p')
TARGET_DIR=$MATERIAL/cache/apps-target
# Static, so that it runs in an empty root file system. The target is named so that the flags are for
# the program alone.
(cd "$SOURCE" && RUSTFLAGS="-C target-feature=+crt-static" CARGO_TARGET_DIR=$TARGET_DIR \
    cargo build -q --locked --release --target "$TARGET") ||
    die "heartbeat could not be built" "cargo's message is above" "delete $TARGET_DIR and run again"

stage "$OUT"
mkdir "$OUT.part/heartbeat"
cp "$TARGET_DIR/$TARGET/release/heartbeat" "$SOURCE/app.yaml" "$OUT.part/heartbeat/"
publish "$OUT"
mark_fresh apps "$KEY"
say "apps: $OUT/heartbeat ($(size "$OUT/heartbeat/heartbeat"))"
