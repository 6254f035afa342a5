#!/usr/bin/env bash
# What takes longer than the tests may: many seeds in the simulator, many hostile commands to host, many demos.
#
#   scripts/soak.sh [SEEDS=10000] [COMMANDS=1000000] [DEMOS=10]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
seeds=${1:-10000} commands=${2:-1000000} demos=${3:-10}
build=${VERGE_BUILD:-target}
mkdir -p "$build"
build=$(realpath "$build")
export VERGE_BUILD=$build CARGO_TARGET_DIR=$build

say "build"
cargo build --locked --workspace --all-targets
say "$seeds seeds in the simulator"
"$build/debug/verge-sim" find --seeds "$seeds" --jobs 2 --dir "$build/soak"
say "$commands hostile commands to host"
VERGE_HOSTILE_COMMANDS=$commands cargo test --locked -p obu-host --test host hostile
scripts/material.sh
for seed in $(seq 1 "$demos"); do
    say "demo, seed $seed"
    "$build/debug/verge" demo --material "$build/material" --seed "$seed" >"$build/soak/demo-$seed.log" ||
        die "the demo with seed $seed failed; see $build/soak/demo-$seed.log"
done
say "all held"
