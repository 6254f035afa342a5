#!/usr/bin/env bash
# The unit of packaging/systemd under a real systemd in the guest (pure cgroup v2): the node starts, an app runs on
# when the host is killed and is adopted by the next one, and a stop leaves nothing. Order and outcome, never time.
# tests: P6-04
#
#   tests/guest/run -t 900 -- tests/guest/cases/systemd.sh
# shellcheck disable=SC2329 # until_ok calls functions by name
# shellcheck source=../case.sh
. "$(dirname "$0")/../case.sh"

# ---- what an integrator installs ----

install_node() {
    local target
    install -d /usr/local/bin /etc/verge "$dir/units"
    cp "$bin/verge" "$bin/verge-host" /usr/local/bin/
    cp packaging/systemd/verge-host.service "$dir/units/"
    # The guest's root is the machine's, whose own units must not start.
    for target in sysinit basic shutdown network multi-user; do
        printf '[Unit]\nDefaultDependencies=no\n' >"$dir/units/$target.target"
    done
    "$bin/verge" pki key "$dir" >/dev/null
    sed 's/"bundles.pub.pem"/"dev.pub.pem"/' packaging/node.toml >/etc/verge/node.toml
    cp "$dir/dev.pub.pem" /etc/verge/
    cat >"$dir/app.yaml" <<EOF
apiVersion: verge/v1
apps:
  heartbeat:
    bundle: $material/apps/heartbeat
    command: [/app/heartbeat]
    tenant: oem
    class: critical
    resources: {cpu: 200m, memory: 16Mi, pids: 8, tmp: 1Mi}
EOF
}

# start_systemd: process 1 of a process, mount and cgroup namespace; its root of cgroups is a group of the guest's.
# It starts when its group holds it alone, for a group with other processes can have no controllers.
start_systemd() {
    local group=/sys/fs/cgroup/machine
    mkdir "$group"
    mkfifo "$dir/go"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        # shellcheck disable=SC2016 # expanded by the inner shell
        exec unshare --pid --mount --cgroup --fork --mount-proc bash -c '
            read -r _ <"$1/go"
            umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs -o mode=755 tmpfs /run
            export container=guest SYSTEMD_UNIT_PATH=$1/units
            exec /lib/systemd/systemd --system --log-target=kmsg --show-status=0 --unit=multi-user.target' _ "$dir"
    ) >"$dir/systemd.log" 2>&1 &
    outer=$!
    exec 8>"$dir/go" # until its end reads it
    echo "$outer" >/sys/fs/cgroup/cgroup.procs
    echo go >&8
    inner() { init=$(cat "/proc/$outer/task/$outer/children") && init=${init%% *} && [ -S "/proc/$init/root/run/systemd/private" ]; }
    until_ok "systemd is up" 120 inner || { cat "$dir/systemd.log" && dmesg | tail -20 && exit 1; }
}

within() { nsenter --target "$init" --mount --pid --cgroup -- "$@"; }
unit() { within systemctl show --property="$1" --value verge-host.service; }
show_log() { within systemctl status --no-pager verge-host.service || true; dmesg | grep -E 'systemd|verge' | tail -20; }

install_node
start_systemd

within systemctl start verge-host.service || { show_log; exit 1; }
until_ok "the node answers at its default socket" 120 within verge get nodes || { show_log; exit 1; }
within verge apply -f "$dir/app.yaml" --key "$dir/dev.key.pem" >/dev/null
running() { within verge get apps -o json | grep -q '"state":"running"'; }
until_ok "the app runs" 120 running || show_log
group=$(find /sys/fs/cgroup/machine -type d -path '*critical/oem/heartbeat')
app=$(find "$group" -name cgroup.procs -exec cat {} + | sort | tr '\n' ' ')
if [ -n "$app" ]; then ok "the app's processes: $app"; else fail "the app's processes" "none in '$group'"; fi

# Our group stands beside systemd's own; it leaves the controllers in it alone.
within systemctl daemon-reload
limit=$(cat "$group/memory.max")
if [ "$limit" = 16777216 ]; then ok "the limit holds after a reload of systemd"; else fail "the limit after a reload" "$limit"; fi

# The host dies: systemd brings the next one, the app's processes stay the same.
first=$(unit MainPID)
within kill -KILL "$first"
another() { main=$(unit MainPID) && [ "$main" != 0 ] && [ "$main" != "$first" ] && [ "$(unit ActiveState)" = active ]; }
until_ok "systemd starts the next host" 120 another || show_log
until_ok "the app runs under the next host" 120 running || show_log
now=$(find "$group" -name cgroup.procs -exec cat {} + | sort | tr '\n' ' ')
if [ "$now" = "$app" ]; then ok "the app was adopted"; else fail "the app was adopted" "processes $app before, $now after"; fi

within systemctl stop verge-host.service || fail "stop" "exit code $?"
if [ "$(unit Result)" = success ]; then ok "the unit ended well"; else fail "the unit ended well" "$(unit Result)"; fi
left=$(find /sys/fs/cgroup -type d -name 'verge-*' && within find /run/verge -mindepth 1 && pgrep 'verge|heartbeat' || true)
if [ -z "$left" ]; then ok "nothing is left"; else fail "nothing is left" "$left"; fi
[ $failed = 0 ] || show_log
kill -KILL "$init"
exit $failed
