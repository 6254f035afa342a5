#!/usr/bin/env bash
# Checks inside the guest that it offers what the tests build on.
#
#   tests/guest/run -- tests/guest/cases/smoke.sh
#
# One line per check on stdout: `ok NAME`, or `FAIL NAME why`. Exit code 1 when any failed.
# shellcheck disable=SC2317 # the checks are called by name
set -euo pipefail

[ -e /run/guest/control ] || { echo "smoke.sh loads modules and makes cgroups: run it in the guest" >&2 && exit 1; }

WORK=$(mktemp -d)
CGROUPS=/sys/fs/cgroup
failed=0

# check NAME COMMAND...: the last line of what a failed command printed is the reason.
check() {
    local name=$1
    shift
    # A subshell with its own `set -e`, which is off in a condition.
    set +e
    (set -e; "$@") >"$WORK/log" 2>&1
    local code=$?
    set -e
    if [ $code = 0 ]; then
        echo "ok $name"
    else
        echo "FAIL $name $(tail -n 1 "$WORK/log" | grep . || echo "exit code $code")"
        failed=1
    fi
}

because() { echo "$*" && return 1; }

# expect WHAT WANTED GOT
expect() { [ "$2" = "$3" ] || because "$1: expected '$2', got '$3'"; }

# until_true WHAT COMMAND...: polls for at most 20 s.
until_true() {
    local what=$1 end=$((SECONDS + 20))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || because "waited in vain until $what"
        sleep 0.02
    done
}

# ---- CAN ----

# receivers COUNT: so many sockets receive from vcan0.
receivers() { [ "$(cat /proc/net/can/rcvlist_* | grep -c '^ *vcan0 ')" -ge "$1" ]; }

# listen COUNT: candump for so many frames into $WORK/frames, ready when this returns.
listen() {
    candump -L -n "$1" vcan0 >"$WORK/frames" &
    until_true "candump receives" receivers 1
}

# heard: waits for candump; what it heard without the time stamps, in one line.
heard() {
    wait "$!"
    cut -d' ' -f3 "$WORK/frames" | paste -sd' '
}

vcan() {
    ip link add vcan0 type vcan
    ip link set vcan0 mtu 72 up
    grep -q vcan0 /proc/net/dev
}

# frame TEXT: what cansend sends, candump hears.
frame() {
    listen 1
    cansend vcan0 "$1"
    expect "candump heard" "$1" "$(heard)"
}

burst() {
    local wanted
    wanted=$(seq 0 99 | while read -r i; do printf '%03X#%02X00000000000000\n' "$i" "$i"; done | paste -sd' ')
    listen 100
    cangen vcan0 -g 1 -n 100 -I i -L 8 -D i
    expect "candump heard" "$wanted" "$(heard)"
}

isotp() {
    local message
    message=$(seq -f %02.0f 0 98 | paste -sd' ')
    isotprecv -s 321 -d 123 vcan0 >"$WORK/message" &
    until_true "isotprecv receives" receivers 1
    echo "$message" | isotpsend -s 123 -d 321 vcan0
    wait "$!"
    expect "isotprecv heard" "$message" "$(sed 's/ *$//' "$WORK/message")"
}

# ---- cgroups and namespaces ----

# within GROUP COMMAND...: runs the command in a new cgroup.
within() {
    local group=$CGROUPS/$1
    shift
    echo "$BASHPID" >"$group/cgroup.procs"
    exec "$@"
}

controllers() {
    local name
    mkdir "$CGROUPS/controllers"
    for name in memory cpu pids io cpuset; do
        grep -qw "$name" "$CGROUPS/controllers/cgroup.controllers" || because "no controller $name in a new cgroup"
    done
    ! grep -q ' cgroup ' /proc/mounts || because "cgroup v1 is mounted"
}

out_of_memory() {
    local code=0
    mkdir "$CGROUPS/oom"
    echo 32M >"$CGROUPS/oom/memory.max"
    (within oom tail /dev/zero) || code=$?
    expect "exit code" 137 "$code"
    # oom_kill also counts kills because the whole machine ran out; oom only those by this limit.
    grep -q '^oom [1-9]' "$CGROUPS/oom/memory.events" || because "memory.events counts no hit of the limit"
    grep -q '^oom_kill [1-9]' "$CGROUPS/oom/memory.events" || because "memory.events counts no kill"
}

process_limit() {
    mkdir "$CGROUPS/pids"
    echo 1 >"$CGROUPS/pids/pids.max"
    ! (within pids sh -c 'true & wait') || because "a second process started"
    grep -q '^max [1-9]' "$CGROUPS/pids/pids.events" || because "pids.events counts no refusal"
}

kill_group() {
    local code=0
    mkdir "$CGROUPS/kill"
    (within kill sh -c 'sleep 1000 & sleep 1000') &
    until_true "three processes run" processes kill 3
    echo 1 >"$CGROUPS/kill/cgroup.kill"
    wait "$!" || code=$?
    expect "exit code" 137 "$code"
    until_true "the cgroup is empty" grep -q '^populated 0' "$CGROUPS/kill/cgroup.events"
}

# processes GROUP COUNT
processes() { [ "$(wc -l <"$CGROUPS/$1/cgroup.procs")" -ge "$2" ]; }

# used GROUP: CPU time in microseconds.
used() { awk '$1 == "usage_usec" { print $2 }' "$CGROUPS/$1/cpu.stat"; }

has_used_more_than() { [ "$(used freeze)" -gt "$1" ]; }

freeze_group() {
    local frozen
    mkdir "$CGROUPS/freeze"
    (within freeze sh -c 'while :; do :; done') &
    until_true "it uses the CPU" has_used_more_than 0
    echo 1 >"$CGROUPS/freeze/cgroup.freeze"
    until_true "it is frozen" grep -q '^frozen 1' "$CGROUPS/freeze/cgroup.events"
    frozen=$(used freeze)
    seq 100000 >"$WORK/time-passes"
    expect "CPU time while frozen" "$frozen" "$(used freeze)"
    echo 0 >"$CGROUPS/freeze/cgroup.freeze"
    until_true "it runs again" has_used_more_than "$frozen"
    echo 1 >"$CGROUPS/freeze/cgroup.kill"
}

pressure() {
    local file
    mkdir "$CGROUPS/pressure"
    for file in /proc/pressure/{cpu,memory,io} "$CGROUPS"/pressure/{cpu,memory,io}.pressure; do
        grep -q '^some avg10=' "$file" || because "no pressure figures in $file"
    done
}

# as_nobody COMMAND...
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }

user_namespace() {
    expect "user id inside" 0 "$(as_nobody unshare --user --map-root-user id -u)"
    as_nobody unshare --user --map-root-user --mount --net --pid --fork --mount-proc ip link set lo up
}

# ---- network and camera ----

# The groups and the port of python-can's multicast bus.
multicast() {
    python3 - <<'PROGRAM'
import socket
import struct

PORT = 43113

def join(family, group):
    listener = socket.socket(family, socket.SOCK_DGRAM)
    listener.bind(("", PORT))
    listener.settimeout(10)
    address = socket.inet_pton(family, group)
    if family == socket.AF_INET:
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address + bytes(4))
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address + struct.pack("@I", 0))
    return listener

for family, group, origin in [
    (socket.AF_INET, "239.74.163.2", "127.0.0.1"),
    (socket.AF_INET6, "ff15:7079:7468:6f6e:6465:6d6f:6d63:6173", "::1"),
]:
    with join(family, group) as listener, socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(group.encode(), (group, PORT))
        data, address = listener.recvfrom(100)
        assert (data.decode(), address[0]) == (group, origin), f"{group}: got {data} from {address}"
PROGRAM
}

# A network namespace at the far end of a veth pair; 100 ms on the near end, then nothing comes back.
netem() {
    ip netns add far
    ip link add near type veth peer name far netns far
    ip address add 10.9.0.1/24 dev near
    ip -n far address add 10.9.0.2/24 dev far
    ip link set near up
    ip -n far link set far up
    tc qdisc add dev near root netem delay 100ms
    local round_trip
    round_trip=$(/run/guest/busybox ping -c 1 10.9.0.2 | sed -n 's/.*time=\([0-9]*\).*/\1/p')
    [ "${round_trip:-0}" -ge 100 ] || because "round trip of '$round_trip' ms, expected 100 or more"
    tc qdisc change dev near root netem loss 100%
    ! /run/guest/busybox ping -c 1 -W 1 10.9.0.2 || because "an answer in spite of 100 % loss"
    ip netns delete far
}

# The defaults of vivid make far more devices, which takes long under emulation.
camera() {
    modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0
    [ -c /dev/video0 ] || because "no /dev/video0"
    expect "bytes of video" 4096 "$(head -c 4096 /dev/video0 | wc -c)"
    modprobe -r vivid
}

check vcan vcan
check frame.classic frame 123#DEADBEEF
check frame.remote frame 123#R
check frame.extended frame 1F334455#1122334455667788
check frame.fd frame "12A##5$(printf '%064d' 0 | tr 0 C)" # 5: bit rate switch, and the mark of an FD frame
check cangen burst
check isotp isotp
check cgroup.controllers controllers
check cgroup.memory out_of_memory
check cgroup.pids process_limit
check cgroup.kill kill_group
check cgroup.freeze freeze_group
check pressure pressure
check userns user_namespace
check multicast multicast
check netem netem
check vivid camera
rm -rf "$WORK"
exit $failed
