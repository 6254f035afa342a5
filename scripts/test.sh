#!/usr/bin/env bash
# All tests, from a clean clone: formatting, units and tables and properties, end-to-end as root and as an ordinary user,
# the guest machine. Ends with one line of counts.
#
#   scripts/test.sh [quick]     quick: without the guest machine and the demos
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

build=${VERGE_BUILD:-target}
mkdir -p "$build"
build=$(realpath "$build")
export VERGE_BUILD=$build CARGO_TARGET_DIR=$build
# Everything is built once there.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0
log=$build/test.log
: >"$log"
passed=0 failed=0 skipped=0
failures=()

# step NAME COMMAND...: one named test that is a program; its output is shown when it fails.
step() {
    local name=$1 out status=0 began=$SECONDS
    shift
    out=$("$@" 2>&1) || status=$?
    printf '%s\n' "== $name" "$out" >>"$log"
    if [ "$status" = 0 ]; then
        passed=$((passed + 1))
        echo "ok      $name ($((SECONDS - began)) s)"
    else
        failed=$((failed + 1))
        failures+=("$name")
        printf '%s\n' "$out" | tail -60
        echo "FAILED  $name (exit $status, $((SECONDS - began)) s)"
    fi
}

# skip NAME WHY: loud, counted; in CI it is a failure.
skip() {
    echo "SKIPPED $1: $2"
    skipped=$((skipped + 1))
    if [ -n "${CI:-}" ]; then
        failed=$((failed + 1))
        failures+=("$1 (skipped in CI)")
    fi
}

# cargo_tests NAME ARGUMENT...: a run of cargo test whose single tests are counted.
cargo_tests() {
    local name=$1 out status=0 began=$SECONDS p f
    shift
    out=$(cargo test --locked --no-fail-fast "$@" 2>&1) || status=$?
    printf '%s\n' "== $name" "$out" >>"$log"
    p=$(grep -oE '[0-9]+ passed' <<<"$out" | awk '{n += $1} END {print n + 0}')
    f=$(grep -oE '[0-9]+ failed' <<<"$out" | awk '{n += $1} END {print n + 0}')
    passed=$((passed + p))
    failed=$((failed + f))
    while read -r line; do [ -n "$line" ] && skip "$name" "${line#*SKIPPED: }"; done < <(grep -F 'SKIPPED: ' <<<"$out" || true)
    if [ "$status" != 0 ]; then
        [ "$f" -gt 0 ] || failed=$((failed + 1))
        failures+=("$name: $(grep -oE '^test .* \.\.\. FAILED$' <<<"$out" | awk '{ printf "%s ", $2 }')")
        grep -vE '^test .* \.\.\. ok$' <<<"$out" | tail -80
    fi
    echo "        $name: $p passed, $f failed ($((SECONDS - began)) s)"
}

step "format" cargo fmt --all --check
say "material for demo and tests"
step "material" scripts/material.sh
step "strace" scripts/material.sh strace
export VERGE_PYLIB=$build/material/pylib
PYTHON=$(<"$VERGE_PYLIB/.python")
export PYTHON
say "build"
cargo build --locked --workspace --all-targets 2>&1 | tail -3

step "the scripts' own tests" env PYTHONPATH="$VERGE_PYLIB" "$PYTHON" -m unittest discover -s scripts/tests
cargo_tests "units, tables, properties" --workspace --exclude tests
cargo_tests "guest functions, on the host" --manifest-path examples/functions/Cargo.toml
cargo_tests "house rules and end-to-end" -p tests -- --test-threads=1

if [ "${1:-}" != quick ]; then
    for script in tests/e2e/*.sh; do
        step "$(basename "$script" .sh)" "$script"
    done
    step "guest machine" tests/guest/setup.sh
    for script in tests/guest/cases/*.sh; do
        step "guest: $(basename "$script" .sh)" tests/guest/run -t 1500 -- env VERGE_BUILD="$build" "$script"
    done
fi

[ "$failed" = 0 ] || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
