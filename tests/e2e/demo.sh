#!/usr/bin/env bash
# The demo with the drive that ships, kept running at its end; and as an ordinary user with a real recording.
# tests: P3-08, P3-09, P3-10, P4-04, P5-02, P5-05
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${VERGE_BUILD:-target}")
demo=("$build/debug/verge" demo --material "$build/material" --project "$PWD" --seed 7)
shared=${VERGE_SHARED:-../shared}
status=0
reached=0
log=$(mktemp)

# play NAME COMMAND...
play() {
    local name=$1
    shift
    echo "== demo: $name"
    "$@" | tee "$log" | tail -50 || { echo "FAILED: demo $name" && status=1; }
    grep -qF "not reached" "$log" || reached=$((reached + 1))
}

# play_and_keep NAME COMMAND...: as above; asks its gateway something before it is ended by Ctrl-C.
play_and_keep() {
    local name=$1 pid socket
    shift
    echo "== demo: $name"
    "$@" --keep >"$log" 2>&1 &
    pid=$!
    until grep -qF "the drive goes on" "$log" || ! kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    socket=$(sed -n 's/^ *export VERGE_SOCKET=//p' "$log")
    if "$build/debug/verge" --socket "$socket" get signals Vehicle.Speed | grep -q km/h; then
        echo "ok: the road goes on and can be looked at"
    else
        echo "FAILED: the gateway does not answer after the demo" && status=1
    fi
    kill -INT "$pid"
    wait "$pid" || { echo "FAILED: demo $name" && status=1; }
    tail -50 "$log"
    grep -qF "not reached" "$log" || reached=$((reached + 1))
}

play_and_keep "the drive that ships" "${demo[@]}"
ordinary=()
home=$(mktemp -d)
if [ "$(id -u)" = 0 ]; then
    chmod 755 "$home" && chown 65534:65534 "$home"
    ordinary=(setpriv --reuid 65534 --regid 65534 --clear-groups env "HOME=$home" "TMPDIR=$home")
fi
trap 'rm -rf "$home" "$log"' EXIT
if [ -f "$shared/data/drive-gnss-obd2-600s.log" ]; then
    recording=("$shared/data/drive-gnss-obd2-600s.log" "$shared/data/canmod-gps.dbc")
    for file in "${recording[@]}"; do cp "$file" "$home/" && chmod a+r "$home/${file##*/}"; done
    play "as an ordinary user, with a real recording" "${ordinary[@]}" "${demo[@]}" \
        --drive "$home/${recording[0]##*/}" --dbc "$home/${recording[1]##*/}"
else
    play "as an ordinary user" "${ordinary[@]}" "${demo[@]}"
    echo "SKIPPED: demo with a real recording: $shared/data is not there"
    [ -z "${CI:-}" ] || status=1
fi
# On a busy machine the hostile app may be frozen before its worst; once it has to come to everything it does.
[ "$reached" -gt 0 ] || { echo "FAILED: in no demo did the hostile app come to all that it tries" && status=1; }
exit $status
