#!/usr/bin/env bash
# The demo's other ends: Ctrl-C at two moments, a second one beside it, and SIGKILL to its processes. Nothing is left.
# tests: P1-19
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${VERGE_BUILD:-target}")
dir=$(mktemp -d)
export TMPDIR=$dir
root=$dir/verge-demo-$(id -u)
demo=("$build/debug/verge" demo --material "$build/material" --project "$PWD" --seed 7)
log=$dir/demo.log
pid=
status=0
fail() { echo "FAILED: $1" && tail -20 "$log" && status=1; }
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

# begin WORDS: starts a demo and waits until it says so.
begin() {
    local end=$((SECONDS + 60))
    "${demo[@]}" >"$log" 2>&1 &
    pid=$!
    until grep -qF "$1" "$log"; do
        kill -0 "$pid" 2>/dev/null || { fail "the demo ended before it said: $1" && return 1; }
        [ $SECONDS -lt $end ] || { fail "not said within a minute: $1" && return 1; }
        sleep 0.1
    done
}

# ended NAME: it was interrupted, says so, and nothing names its directory any more.
ended() {
    local code=0
    wait "$pid" || code=$?
    pid=
    [ "$code" = 130 ] || fail "$1: exit code $code"
    grep -qF "interrupted; left behind: no process" "$log" || fail "$1: it does not say that nothing is left"
    gone "$1"
}

gone() {
    if pgrep -af "$root/"; then fail "$1: these processes are left"; else echo "ok: $1"; fi
}

begin "the road: car A"
kill -INT "$pid"
ended "Ctrl-C while the nodes start"

begin "    3 s  tasks"
if "${demo[@]}" >"$dir/second.log" 2>&1 || ! grep -qF "another demo of yours runs" "$dir/second.log"; then
    fail "a second demo is not refused: $(cat "$dir/second.log")"
fi
kill -INT "$pid"
ended "Ctrl-C on the road, with a second demo beside it that is refused"

begin "    3 s  tasks"
# The demo itself, a host, a player of the drive and the ledger: each leaves others without a parent.
host=$(pgrep -of "verge-host --config $root/a2/node.toml")
player=$(pgrep -of "can replay --loop .*$root/drive.log")
ledger=$(pgrep -of "ledger.py --effects $root/effects.log")
kill -KILL "$host" "$player" "$ledger" "$pid"
wait "$pid" 2>/dev/null || true
pgrep -f "$root/" >/dev/null || fail "the SIGKILLs left nothing to clear away, so nothing is tested"
begin "    1 s  tasks"
kill -INT "$pid"
ended "SIGKILL to the demo, a host, a player and the ledger; the next run clears away what they left"
exit $status
