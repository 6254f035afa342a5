#!/usr/bin/env bash
# Measures Verge and its rivals side by side, in one run, and prints the table.
#
#   scripts/bench.sh [FAMILY]      default: all; start, apply, boot, memory, idle, can, task, figure3, ...
#
# Writes $BUILD/bench/summary.json (of one family: summary-ID.json) and $BUILD/bench/raw/ID.csv. It judges the figures
# against their goals but fails only when something could not be measured. VERGE_BENCH_PROFILE=dev measures the programs
# in $BUILD/debug instead of building release ones (quick; the starts are measured on a release host all the same).
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

BENCH_PROFILE=${VERGE_BENCH_PROFILE:-release}
export BENCH_PROFILE
OUT=$BUILD/bench
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$BUILD}
case $CARGO_TARGET_DIR in /*) ;; *) CARGO_TARGET_DIR=$ROOT/$CARGO_TARGET_DIR ;; esac
export CARGO_TARGET_DIR BENCH_RELEASE=$CARGO_TARGET_DIR/release
case $BENCH_PROFILE in
dev) export BENCH_BIN=$BUILD/debug ;;
release) export BENCH_BIN=$BENCH_RELEASE ;;
*) die "no profile is called '$BENCH_PROFILE'" "VERGE_BENCH_PROFILE is neither dev nor release" "leave it out" ;;
esac
cd "$ROOT"
need gcc gcc
mkdir -p "$OUT/programs"
exec 8>"$OUT/.lock"
flock -n 8 || die "another bench is running in $OUT" "two at a time would measure each other" "wait for it to end"

say "building what is measured (profile $BENCH_PROFILE)"
MEASURED="-p obu-host --bin verge-host --example start_latency -p can-bridge --example decode_rate"
# At once: in two builds the packages would have other features in each.
[ "$BENCH_PROFILE" = dev ] || MEASURED="$MEASURED -p obu-runtime --bin verge"
# shellcheck disable=SC2086
cargo build --locked --release $MEASURED
[ -x "$BENCH_BIN/verge" ] || die "there is no $BENCH_BIN/verge" "profile dev uses what is built already" "run: make build"

scripts/material.sh python-base pylib wasm apps
gcc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o "$OUT/programs/stamp" scripts/bench/programs/stamp.c
gcc -O2 -Wall -Wextra -o "$OUT/programs/spawn" scripts/bench/programs/spawn.c

# The rivals, with those of their libraries that this machine lacks.
RIVALS="crun runc bubblewrap"
RIVALS_KEY=$(key "$0" "$RIVALS")
if ! is_fresh bench-rivals "$RIVALS_KEY"; then
    # A rival that is not to be had is named in the table; it does not end the run.
    if (
        stage "$OUT/rivals"
        # shellcheck disable=SC2046,SC2086
        deb_unpack "$OUT/rivals.part" $(printf '%s\n' $RIVALS $(deb_closure $RIVALS) | sort -u)
        publish "$OUT/rivals"
    ); then mark_fresh bench-rivals "$RIVALS_KEY"; else say "going on without the rivals from Debian"; fi
fi

PYTHONPATH=$ROOT/scripts:$MATERIAL/pylib PYTHONDONTWRITEBYTECODE=1 \
    exec "$(cat "$MATERIAL/pylib/.python")" -m bench "$@"
