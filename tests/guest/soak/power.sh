#!/usr/bin/env bash
# One life of a node between two power cuts. Its state lies on a disk that outlives the guest. First it is held against
# what the life before had acknowledged; then apps are applied and deleted until the power goes.
# tests: P1-23
#
#   tests/guest/run -d DISK -m virtio_blk -m ext4 -- tests/guest/soak/power.sh ACKNOWLEDGED INCARNATION [end]
#
#   ACKNOWLEDGED  version of the desired state that was acknowledged last, 0 at first
#   INCARNATION   of the life before, 0 at first
#   end           nothing is changed any more: the node ends in order
#
# Prints `incarnation N`, a line per check, `lost N` if the cut took what was not synced (or there would be nothing to
# see), and `acknowledged N` after each change. scripts/soak/power.sh cuts, and starts the next life.
# shellcheck source=../case.sh
. "$(dirname "$0")/../case.sh"
acknowledged=$1 life=$2 end=${3:-}
disk=$dir/disk
verge() { "$bin/verge" --socket "$dir/run/control.sock" "$@"; }

# ---- the disk ----

mkdir "$disk"
until_ok "the disk is there" 30 test -b /dev/vda || exit 1
mount -t ext4 /dev/vda "$disk" || { fail "the disk can be mounted" "$(dmesg | tail -3)" && exit 1; }

# A file that nobody syncs: the cut must have taken its end.
unsynced=$disk/unsynced
last=$(grep -aoE '^[0-9]+$' "$unsynced" 2>/dev/null | tail -n 1 || true)
[ "${last:-0}" -ge "$acknowledged" ] || echo "lost $((acknowledged - ${last:-0}))"
: >"$unsynced"
[ -e "$disk/dev.key.pem" ] || "$bin/verge" pki key "$disk" >/dev/null
sync

# ---- the node, and what its files say: versions 1, 2, 3, 4 ... keep p0; p0 and p1; p1; nothing; p0 ... ----

cat >"$dir/node.toml" <<EOF
apiVersion = "verge/v1"
[node]
id = "p1"
car = "guest"
run_dir = "$dir/run"
state_dir = "$disk/state"
time_scale = 10
[host]
trusted_keys = ["$disk/dev.pub.pem"]
[[policy.tenants]]
tenant = "default"
best_class = "critical"
allow = { signals = ["Vehicle.**"] }
EOF
for app in p0 p1; do
    cat >"$dir/$app.yaml" <<EOF
apiVersion: verge/v1
apps:
  $app:
    bundle: $material/apps/heartbeat
    command: [/app/heartbeat]
    class: critical
    resources: {cpu: 200m, memory: 16Mi, pids: 8, tmp: 1Mi}
EOF
done
apply() { verge apply -f "$dir/$1.yaml" --key "$disk/dev.key.pem"; }

# change VERSION: from the version before to this one.
change() {
    case $(($1 % 4)) in
    1) apply p0 ;;
    2) apply p1 ;;
    3) verge delete p0 ;;
    0) verge delete p1 ;;
    esac
}

# kept VERSION: the apps of this version.
kept() { case $(($1 % 4)) in 1) echo p0 ;; 2) echo p0 p1 ;; 3) echo p1 ;; esac; }

apps() { verge get apps -o json | grep -oE '"app":"default/[^"]+"' | cut -d/ -f2 | tr -d '"' | sort | xargs; }
number() { verge get nodes -o json | grep -oE "\"$1\":[0-9]+" | head -n 1 | cut -d: -f2; }
all_run() { [ "$(verge get apps -o json | grep -o '"state":"running"' | wc -l)" = "$1" ]; }

# ---- the check ----

"$bin/verge-host" --config "$dir/node.toml" --verge "$bin/verge" >"$dir/host.log" 2>&1 &
host=$!
until_ok "the node starts" 120 verge get nodes || { cat "$dir/host.log" && exit 1; }
now=$(number incarnation)
version=$(number desired_version)
echo "incarnation $now"
if [ "$now" -gt "$life" ]; then ok "a new life"; else fail "a new life" "incarnation $now after $life"; fi
if [ "$version" -ge "$acknowledged" ]; then
    ok "version $version, acknowledged was $acknowledged"
else
    fail "what was acknowledged is kept" "version $version, acknowledged was $acknowledged"
fi
found=$(apps || true)
expected=$(kept "$version")
if [ "$found" = "$expected" ]; then ok "its apps: $found"; else fail "its apps" "'$found', version $version has '$expected'"; fi
until_ok "they run" 120 all_run "$(wc -w <<<"$expected")" || { verge get apps && cat "$dir/host.log"; }
if dmesg | grep -F 'EXT4-fs error'; then fail "the file system is sound" "see above"; fi
[ $failed = 0 ] || { cat "$dir/host.log" && exit 1; }

# ---- the end, or changes until the power goes ----

if [ "$end" = end ]; then
    kill -TERM "$host"
    wait "$host" || fail "the node ends in order" "exit code $?"
    umount "$disk" || fail "the disk is free" "something of the node is left"
    exit $failed
fi
while true; do
    version=$((version + 1))
    change "$version" >"$dir/last" 2>&1 || { fail "change to version $version" "$(tail -3 "$dir/last")" && exit 1; }
    echo "$version" >>"$unsynced"
    echo "acknowledged $version"
done
