#!/usr/bin/env bash
# Prepares what the demo and the tests need besides the Rust workspace, under $BUILD/material.
#
#   scripts/material.sh [PIECE...]      default: every piece of the demo
#
# Pieces (each a file in scripts/material/):
#   python-base  base-python/       root file system for confined Python apps, with the Zenoh client
#   pylib        pylib/             Python packages for host-side tools and tests (PYTHONPATH)
#   clip         clip/street.mjpeg  a real street video as the dashcam's MJPEG stream
#   wasm         wasm/*.wasm        the functions of examples/functions
#   apps         apps/*/            the compiled apps of examples/apps
#   strace       strace/           strace for the tests, where it is not installed (not part of the demo)
#   cross        cross/             C compiler, libraries and emulator for aarch64 (make dist and its test, not the demo)
#   sumo         sumo/              SUMO, for sim/drives/make-drive.py (not part of the demo)
#
# Needs no root and installs nothing; downloads are kept; a second run does only what changed.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || set -- python-base pylib clip wasm apps

mkdir -p "$MATERIAL" 2>/dev/null || true
[ -w "$MATERIAL" ] ||
    die "cannot write to $MATERIAL" "the directory belongs to someone else or the disk is read-only" \
        "set VERGE_BUILD to a directory of your own"
exec 9>"$MATERIAL/.lock"
flock -n 9 || { say "waiting for another run of this script" && flock 9; }

for piece in "$@"; do
    file=$ROOT/scripts/material/$piece.sh
    [ -f "$file" ] ||
        die "no piece is called '$piece'" "it has no file in scripts/material" \
            "use one of: $(cd "$ROOT/scripts/material" && echo *.sh | sed 's/\.sh//g')"
    SECONDS=0
    # The lock is not handed down: a child that outlives us must not keep it.
    bash "$file" 9>&- || exit 1
    [ $SECONDS -lt 2 ] || say "$piece took $SECONDS s"
done
say "material is ready in $MATERIAL"
