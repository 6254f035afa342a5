#!/usr/bin/env bash
# What takes longer than the tests may. Every stage is run, also after one has failed; the last line says how it went.
#
#   make soak                                       all of it
#   make soak ONLY=kills KILLS=100                  one stage
#   ONLY="seeds power" SEEDS=100 scripts/soak.sh    without make
#
# Stages, with the variables that say how much:
#   seeds     SEEDS=10000        worlds of the simulator
#   hostile   COMMANDS=1000000   hostile commands to host
#   kills     KILLS=1000         SIGKILLs of a node's processes; VERGE_KILLS_SEED repeats their order and moments (root)
#   power     CUTS=10            power cuts of a guest machine; POWER_SEED repeats the moments
#   mutants                      of the modules where safety lives
#   demos     DEMOS=10           demos, each with the next seed
#
# Logs are left in $VERGE_BUILD/soak.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
seeds=${SEEDS:-10000} commands=${COMMANDS:-1000000} kills=${KILLS:-1000} cuts=${CUTS:-10} demos=${DEMOS:-10}
read -ra stages <<<"${ONLY:-seeds hostile kills power mutants demos}"
mkdir -p "$BUILD/soak"
BUILD=$(realpath "$BUILD")
logs=$BUILD/soak
export VERGE_BUILD=$BUILD CARGO_TARGET_DIR=$BUILD VERGE_PYLIB=$BUILD/material/pylib

seeds() { "$BUILD/debug/verge-sim" find --seeds "$seeds" --jobs 2 --dir "$logs"; }

hostile() { VERGE_HOSTILE_COMMANDS=$commands run_test hostile -p obu-host --test host hostile; }

kills() { VERGE_KILLS=$kills run_test kills -p tests --test kills; }

# run_test NAME ARGUMENT...: cargo test. What does not run here says so and passes; in a soak that is a failure.
run_test() {
    local log=$logs/$1.log
    cargo test --locked "${@:2}" -- --nocapture 2>&1 | tee "$log"
    ! grep -F 'SKIPPED: ' "$log"
}

power() { scripts/soak/power.sh "$cuts" ${POWER_SEED:+"$POWER_SEED"}; }

mutants() { scripts/soak/mutants.sh; }

demos() {
    local seed
    for seed in $(seq 1 "$demos"); do
        say "demo, seed $seed"
        "$BUILD/debug/verge" demo --material "$BUILD/material" --seed "$seed" >"$logs/demo-$seed.log" ||
            die "the demo with seed $seed failed" "$(tail -n 1 "$logs/demo-$seed.log")" "see $logs/demo-$seed.log"
    done
}

# Before hours of work: a stage that nobody knows would be found out at its turn only.
for stage in "${stages[@]}"; do
    case $stage in
    seeds | hostile | kills | power | mutants | demos) ;;
    *) die "no stage is called '$stage'" "ONLY names something else" "see the head of scripts/soak.sh" ;;
    esac
done

say "build"
cargo build --locked --workspace --all-targets
scripts/material.sh
PYTHON=$(<"$VERGE_PYLIB/.python")
export PYTHON
failures=()
for stage in "${stages[@]}"; do
    say "stage: $stage"
    # A subshell with its own `set -e`, which is off in a condition.
    set +e
    (set -e && "$stage")
    code=$?
    set -e
    [ "$code" = 0 ] || failures+=("$stage")
done
[ ${#failures[@]} = 0 ] || die "failed: ${failures[*]}" "see above" "repeat one with: make soak ONLY=${failures[0]}"
say "all held: ${stages[*]}"
