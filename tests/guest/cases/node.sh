#!/usr/bin/env bash
# A node in the guest: pure cgroup v2, a real vcan bus, can-utils as the peer. Order and outcome, never time.
# tests: P1-12, P2-06
#
#   tests/guest/run -t 900 -- tests/guest/cases/node.sh
# shellcheck source=../case.sh
. "$(dirname "$0")/../case.sh"
socket=$dir/run/control.sock
verge() { "$bin/verge" --socket "$socket" "$@"; }

ip link add vcan0 type vcan && ip link set vcan0 up
"$bin/verge" pki key "$dir" >/dev/null
cat >"$dir/node.toml" <<EOF
apiVersion = "verge/v1"
[node]
id = "g1"
car = "guest"
run_dir = "$dir/run"
state_dir = "$dir/state"
time_scale = 10
[host]
trusted_keys = ["dev.pub.pem"]
[[bus]]
name = "can0"
kind = "socketcan"
interface = "vcan0"
dbc = "$PWD/can-bridge/dbc/verge-demo.dbc"
mapping = "$PWD/can-bridge/dbc/verge-demo.vss.json"
[[policy.tenants]]
tenant = "default"
best_class = "critical"
allow = { signals = ["Vehicle.**"] }
EOF
cat >"$dir/app.yaml" <<EOF
apiVersion: verge/v1
apps:
  heartbeat:
    bundle: $material/apps/heartbeat
    command: [/app/heartbeat]
    class: critical
    resources: {cpu: 200m, memory: 16Mi, pids: 8, tmp: 1Mi}
    grants: {signals: [Vehicle.Speed]}
EOF
"$bin/verge-host" --config "$dir/node.toml" --verge "$bin/verge" >"$dir/host.log" 2>&1 &
host=$!
until_ok "the node answers" 120 verge get nodes || { cat "$dir/host.log"; exit 1; }

verge apply -f "$dir/app.yaml" --key "$dir/dev.key.pem" >/dev/null
running() { verge get apps -o json | grep -q '"state":"running"'; }
until_ok "the app runs" 120 running || cat "$dir/host.log"
apps=$(verge get apps -o json)
for what in "cgroup2 memory.max" "cgroup2 cpu.max" "cgroup2 pids.max" "cgroup2 cgroup.freeze"; do
    if grep -qF "$what" <<<"$apps"; then ok "enforced by $what"; else fail "enforced by $what" "$apps"; fi
done
group=$(find /sys/fs/cgroup -type d -path '*critical/default/heartbeat' | head -1)
if [ "$(cat "$group/memory.max")" = 16777216 ]; then ok "the kernel holds the limit"; else fail "the kernel holds the limit" "$(cat "$group/memory.max")"; fi

border=$(find /sys/fs/cgroup -type d -path '*faces/border-default' | head -1)
if [ "$(cat "$border/memory.max")" = 201326592 ]; then ok "its border is held"; else fail "its border is held" "$(cat "$border/memory.max")"; fi

verge freeze heartbeat >/dev/null
frozen() { grep -q 'frozen 1' "$group/cgroup.events"; }
until_ok "freeze" 60 frozen || true
verge thaw heartbeat >/dev/null
thawed() { grep -q 'frozen 0' "$group/cgroup.events"; }
until_ok "thaw" 60 thawed || true

candump -L vcan0 >"$dir/candump.log" &
dump=$!
gzip -dc sim/drives/a10kw.log.gz >"$dir/whole.log"
head -400 "$dir/whole.log" >"$dir/drive.log"
interface=$(awk 'NR == 1 {print $2}' "$dir/drive.log")
canplayer -I "$dir/drive.log" "vcan0=$interface" >/dev/null
speed() { verge get signals Vehicle.Speed -o json | grep -q '"path":"Vehicle.Speed"'; }
until_ok "Vehicle.Speed comes from canplayer's frames" 60 speed || true
kill "$dump"
heard=$(wc -l <"$dir/candump.log")
stats() { verge get stats -o json | grep -oE '"frames_in":[0-9]+' | grep -oE '[0-9]+'; }
counted() { [ "$(stats)" -ge "$heard" ]; }
until_ok "every frame that candump heard was counted" 60 counted || echo "candump heard $heard, the bus $(stats)"

kill -TERM "$host"
if wait "$host"; then ok "the node ends in order"; else fail "the node ends in order" "exit code $?"; fi
if find /sys/fs/cgroup -type d -name 'verge-*' | grep -q .; then fail "nothing is left" "cgroups"; else ok "nothing is left"; fi
exit $failed
