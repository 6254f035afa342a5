#!/usr/bin/env bash
# The demo itself in the guest: pure cgroup v2, vcan buses, everything slowed down. Order and outcome, never time.
# tests: P2-10
#
#   tests/guest/run -t 1500 -- tests/guest/cases/demo.sh
# shellcheck source=../case.sh
. "$(dirname "$0")/../case.sh"
scale=${VERGE_TIME_SCALE:-4}
log=$dir/demo.log
status=0
"$bin/verge" demo --material "$material" --project "$PWD" --seed 7 --time-scale "$scale" 2>&1 | tee "$log" || status=$?
for seen in "the kernel's vcan" "cgroup2 memory.max"; do
    grep -qF "$seen" "$log" || { echo "FAIL: not seen: $seen" && status=1; }
done
exit $status
