#!/usr/bin/env bash
# Deduplication, lease or fence switched off is noticed. The simulator's search finds it, and the log that it leaves
# breaks the same rule again; the demo ends with a non-zero exit, and the check that is meant for it is among those that
# fail.
# tests: P3-13, P5-03
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${VERGE_BUILD:-target}")
work=$build/planted
python=$(<"$build/material/pylib/.python")
packages=(-p obu-host -p obu-runtime -p sim)
status=0

# The programs of the other tests are built in the same directory: whatever happens here, they come back.
trap 'cargo build --locked --quiet "${packages[@]}"' EXIT

# build BUG: builds with BUG, has the simulator find it.
build() {
    local bug=$1 dir=$work/$1 code=0
    rm -rf "$dir" && mkdir -p "$dir/run"
    cargo build --locked --quiet "${packages[@]}" --features "obu-runtime/testing-no-$bug"
    cp "$build"/debug/{verge,verge-host,verge-sim} "$dir/"
    "$dir/verge-sim" -o json find --seeds 300 --dir "$dir" >"$dir/found.json" || code=$?
    if [ "$code" = 1 ] && breaks_again "$dir/verge-sim" "$dir/found.json"; then
        echo "ok: without $bug the simulator breaks a rule"
    else
        echo "FAILED: without $bug the search ended with exit code $code"
        tail -5 "$dir/found.json"
        status=1
    fi
}

# play BUG NUMBER: plays its demo, as an ordinary user of its own: as root the three would meet in one cgroup.
play() {
    local dir=$work/$1 user=$((65530 + $2)) as=()
    if [ "$(id -u)" = 0 ]; then
        chown "$user:$user" "$dir/run"
        as=(setpriv --reuid "$user" --regid "$user" --clear-groups)
    fi
    "${as[@]}" env HOME="$dir/run" TMPDIR="$dir/run" "$dir/verge" demo --material "$build/material" --project "$PWD" \
        --seed 7 --report "$dir/run/report.json" >"$dir/demo.log" 2>&1
}

# judge BUG CHECK PID: waits for the demo, looks at CHECK.
judge() {
    local bug=$1 check=$2 dir=$work/$1 code=0
    wait "$3" || code=$?
    if [ "$code" != 0 ] && [ -f "$dir/run/report.json" ] && failed_check "$dir/run/report.json" "$check"; then
        echo "ok: without $bug the demo ends with exit code $code: $check"
        rm -rf "$dir"
    else
        echo "FAILED: without $bug the demo ended with exit code $code, and \"$check\" was not what failed"
        tail -60 "$dir/demo.log"
        status=1
    fi
}

# breaks_again SIM FOUND: whether the search found something, and its log breaks the same rule when it is replayed.
breaks_again() {
    "$python" - "$@" <<'PYTHON'
import json, subprocess, sys
found = json.load(open(sys.argv[2]))["found"][0]
print("seed", found["seed"], "breaks:", found["broken"])
again = subprocess.run([sys.argv[1], "-o", "json", "replay", found["log"]], capture_output=True, text=True)
sys.exit(json.loads(again.stdout)["broken"] != found["broken"])
PYTHON
}

# failed_check REPORT CHECK: whether this check is in the report, did not hold, and names a task.
failed_check() {
    "$python" - "$1" "$2" <<'PYTHON'
import json, re, sys
failed = {check["what"]: check["seen"] for check in json.load(open(sys.argv[1])) if not check["ok"]}
print("failed:", failed)
# It failed for what it is meant for: it names a task.
sys.exit(not re.search(r'\["[^"]+\.', failed.get(sys.argv[2], "")))
PYTHON
}

# The first two are noticed on a busy machine as well, so they are played beside the next builds. The lease's fault has to
# be met by a task at its moment.
build dedup
play dedup 1 &
dedup=$!
build fence
play fence 2 &
fence=$!
build lease
judge dedup "a run that came twice was run once" $dedup
judge fence "no effect happened twice" $fence
play lease 3 &
judge lease "no effect after its lease" $!
exit $status
