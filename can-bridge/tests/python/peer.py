"""A python-can peer on a multicast bus: prints what it receives, sends what it is told.

usage: peer.py GROUP PORT; lines on stdin: "send ID EXTENDED KIND HEX", "expect COUNT", then the end of stdin.
"""
import sys
import can

bus = can.Bus(interface="udp_multicast", channel=sys.argv[1], port=int(sys.argv[2]), hop_limit=0, fd=True)
print("ready", flush=True)


def describe(m):
    kind = "remote" if m.is_remote_frame else "fd%d%d" % (m.bitrate_switch, m.error_state_indicator) if m.is_fd else "classic"
    return "%x %d %s %d %s" % (m.arbitration_id, m.is_extended_id, kind, m.dlc, bytes(m.data).hex())


def message(words):
    ident, extended, kind, length = int(words[0], 16), words[1] == "1", words[2], int(words[3])
    data = bytes.fromhex(words[4]) if len(words) > 4 else b""
    return can.Message(
        arbitration_id=ident, is_extended_id=extended, is_remote_frame=kind == "remote", dlc=length,
        is_fd=kind.startswith("fd"), bitrate_switch=kind.startswith("fd1"),
        error_state_indicator=kind.startswith("fd") and kind[3] == "1", data=data, check=True)


for line in sys.stdin:
    words = line.split()
    if words[0] == "send":
        bus.send(message(words[1:]))
    elif words[0] == "expect":
        for _ in range(int(words[1])):
            received = bus.recv(timeout=30)
            print(describe(received) if received else "nothing", flush=True)
bus.shutdown()
