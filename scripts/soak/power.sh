#!/usr/bin/env bash
# Cuts the power of a guest machine again and again while the node in it changes what it keeps; each next life must hold
# what the one before acknowledged. What is checked stands in tests/guest/soak/power.sh.
#
#   scripts/soak/power.sh [CUTS=10] [SEED]      the seed decides the moments
#
# Needs the programs of the dev profile, and scripts/material.sh.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
cuts=${1:-10} seed=${2:-$((RANDOM + 1))}
# Latest moment of a cut after the first change, milliseconds: a few changes, and what they leave to be written.
MOMENT_MS_MAX=8000
work=$BUILD/soak/power
disk=$work/disk
acknowledged=0 life=0 lost=0
guest=
trap '[ -z "$guest" ] || kill "$guest" 2>/dev/null || true' EXIT

make_disk() {
    need mkfs.ext4 e2fsprogs
    rm -rf "$work"
    mkdir -p "$work"
    truncate -s 512M "$disk"
    mkfs.ext4 -q -F "$disk"
}

# boot NUMBER [end]: the guest in the background, its log in $log.
boot() {
    log=$work/life-$1.log
    shift
    "$ROOT/tests/guest/run" -t 900 -d "$disk" -m virtio_blk -m ext4 -- env VERGE_BUILD="$BUILD" \
        "$ROOT/tests/guest/soak/power.sh" "$acknowledged" "$life" "$@" >"$log" 2>&1 &
    guest=$!
}

# last WORD: the highest number that the guest printed after this word.
last() { sed -n "s/^$1 \([0-9]*\)\$/\1/p" "$log" | sort -n | tail -n 1; }

# ended WANTED: waits for the guest, which must end with this code and without a failed check.
ended() {
    local code=0
    wait "$guest" || code=$?
    guest=
    if [ "$code" != "$1" ] || grep -q '^FAIL' "$log"; then
        tail -n 40 "$log" >&2
        die "the guest ended with exit code $code instead of $1, or a check failed" "see above, and $log" \
            "repeat with: scripts/soak/power.sh $cuts $seed"
    fi
}

# cut NUMBER MS: a life, so many milliseconds longer than its first change.
cut() {
    boot "$1"
    until grep -q '^acknowledged ' "$log" || ! kill -0 "$guest" 2>/dev/null; do sleep 0.1; done
    # Nothing is waited for: this is the moment that the seed has drawn.
    sleep "$(printf '%d.%03d' $(($2 / 1000)) $(($2 % 1000)))"
    kill -USR1 "$guest" 2>/dev/null || true # a guest that is gone is told by its exit code
    ended 123
    lost=$((lost + $(last lost) + 0))
    acknowledged=$(last acknowledged)
    life=$(last incarnation)
    say "cut $1 of $cuts: life $life, version $acknowledged acknowledged, $2 ms after the first change"
}

"$ROOT/tests/guest/setup.sh"
make_disk
say "$cuts power cuts, seed $seed (repeat with: scripts/soak/power.sh $cuts $seed)"
RANDOM=$seed
for number in $(seq 1 "$cuts"); do
    cut "$number" $((RANDOM * MOMENT_MS_MAX / 32768))
done
boot end end
ended 0
lost=$((lost + $(last lost) + 0))
[ "$lost" -gt 0 ] || die "no cut took anything" "what nobody had synced was there after every cut: this test sees nothing" \
    "look at the cache of the disk in tests/guest/run"
e2fsck -fn "$disk" >"$work/e2fsck.log" 2>&1 || die "the file system is damaged" "$(tail -n 3 "$work/e2fsck.log")" \
    "see $work/e2fsck.log"
say "$cuts power cuts: everything acknowledged was kept"
