#!/usr/bin/env bash
# The demo itself in the guest: pure cgroup v2, vcan buses, everything slowed down. Order and outcome, never time.
# tests: P2-10
#
#   tests/guest/run -t 1500 -- tests/guest/cases/demo.sh
set -euo pipefail
[ -e /run/guest/control ] || { echo "demo.sh makes interfaces and cgroups: run it in the guest" >&2 && exit 1; }
cd "$(dirname "$0")/../../.."
build=$(realpath "${VERGE_BUILD:-target}")
scale=${VERGE_TIME_SCALE:-4}
log=$(mktemp)
status=0
"$build/debug/verge" demo --material "$build/material" --project "$PWD" --seed 7 --time-scale "$scale" 2>&1 | tee "$log" || status=$?
for seen in "the kernel's vcan" "cgroup2 memory.max"; do
    grep -qF "$seen" "$log" || { echo "FAIL: not seen: $seen" && status=1; }
done
exit $status
