#!/usr/bin/env python3
"""The independent ledger of the demo: counts what really reached the bus and what really took effect.

    ledger.py --effects FILE --summary FILE
              [--listen HOST:PORT]                        effect server; default 127.0.0.1:0 (any port)
              [--multicast GROUP [--port N] | --socketcan INTERFACE]   bus to listen on
              [--watch ID[,ID...] --frames FILE]          frames of these ids (hex) are written down

Shares no code with Verge: the bus is read by python-can, effects come in as lines over TCP. Each line is
appended to FILE as `<arrival time in us> <line>`, made durable, and then answered `ok <n>`; n counts from 1.
The first line on standard output is the port. SIGTERM (or Ctrl-C) ends it: it writes the summary (JSON:
frames by id, effects, duplicates by the field `task=`) and exits 0. Needs material/pylib for the bus.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import signal
import socketserver
import sys
import threading
import time

MAX_LINE_BYTES = 16 * 1024
TASK_FIELD = re.compile(r"(?:^| )task=(\S+)")
POLL_S = 0.2  # how soon the listener notices the end


def now_us():
    return time.time_ns() // 1000


class AppendOnly:
    """A file that only grows; each line is one write, durable when `append` returns."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def append(self, text):
        line = f"{now_us()} {text}\n".encode()
        while line:
            line = line[os.write(self.file, line):]
        os.fdatasync(self.file)


class Effects:
    """All effects so far, in order of arrival."""

    def __init__(self, path):
        self.out = AppendOnly(path)
        self.lock = threading.Lock()
        self.count = 0
        self.without_task = 0
        self.by_task = collections.Counter()

    def add(self, line):
        """Writes one effect down; returns its number."""
        with self.lock:
            self.out.append(line)
            self.count += 1
            task = TASK_FIELD.search(line)
            if task:
                self.by_task[task.group(1)] += 1
            else:
                self.without_task += 1
            return self.count

    def summary(self):
        with self.lock:
            return {
                "lines": self.count,
                "tasks": len(self.by_task),
                "without_task": self.without_task,
                "duplicates": {task: n for task, n in sorted(self.by_task.items()) if n > 1},
            }


class EffectServer(socketserver.ThreadingTCPServer):
    """Takes lines, answers `ok <n>`; a client that sends garbage loses its connection, nothing else."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address, effects):
        self.effects = effects
        super().__init__(address, EffectHandler)

    def handle_error(self, request, client_address):
        print(f"ledger: client {client_address[1]}: {sys.exc_info()[1]}", file=sys.stderr, flush=True)


class EffectHandler(socketserver.StreamRequestHandler):
    def handle(self):
        while raw := self.rfile.readline(MAX_LINE_BYTES + 1):
            if not raw.endswith(b"\n"):
                self.wfile.write(b"error the line is cut off or too long\n")
                return
            try:
                line = raw.decode().strip()
            except UnicodeDecodeError:
                line = ""
            if line and line.isprintable():
                self.wfile.write(f"ok {self.server.effects.add(line)}\n".encode())
            else:
                self.wfile.write(b"error the line is empty or not plain text\n")


class BusListener(threading.Thread):
    """Counts every frame on the bus, and writes down those of the watched ids."""

    def __init__(self, bus, watched, path):
        super().__init__(name="bus", daemon=True)
        self.bus, self.watched = bus, watched
        self.out = AppendOnly(path) if path else None
        self.by_id = collections.Counter()
        self.garbage = 0
        self.ending = threading.Event()

    def run(self):
        while not self.ending.is_set():
            try:
                frame = self.bus.recv(POLL_S)
            except Exception as error:  # foreign bytes: python-can lets many kinds through
                self.garbage += 1
                print(f"ledger: not a frame: {error}", file=sys.stderr, flush=True)
                continue
            if frame is not None:
                self.see(frame)

    def see(self, frame):
        name = f"{frame.arbitration_id:0{8 if frame.is_extended_id else 3}X}"
        self.by_id[name] += 1
        if self.out and frame.arbitration_id in self.watched:
            self.out.append(f"{name}#{bytes(frame.data).hex().upper()}")

    def end(self):
        self.ending.set()
        self.join()
        self.bus.shutdown()

    def summary(self):
        return {
            "total": sum(self.by_id.values()),
            "by_id": dict(sorted(self.by_id.items())),
            "garbage": self.garbage,
        }


def open_bus(options):
    """The bus that the options name, or None."""
    if not (options.multicast or options.socketcan):
        return None
    import can  # only here: the effect server alone needs no packages

    if options.socketcan:
        return can.Bus(interface="socketcan", channel=options.socketcan)
    # Hop limit 0: nothing leaves this machine.
    return can.Bus(interface="udp_multicast", channel=options.multicast, port=options.port, hop_limit=0)


def address(text):
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    if not host.startswith("127.") and host != "localhost":
        raise argparse.ArgumentTypeError(f"{host!r} is not a loopback address")
    return host, int(port)


def identifiers(text):
    try:
        return {int(word, 16) for word in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of hexadecimal ids") from None


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effects", type=pathlib.Path, required=True)
    parser.add_argument("--summary", type=pathlib.Path, required=True)
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 0))
    bus = parser.add_mutually_exclusive_group()
    bus.add_argument("--multicast", metavar="GROUP")
    bus.add_argument("--socketcan", metavar="INTERFACE")
    parser.add_argument("--port", type=int, default=43113)
    parser.add_argument("--watch", type=identifiers, default=set())
    parser.add_argument("--frames", type=pathlib.Path)
    options = parser.parse_args(arguments)
    if bool(options.watch) != bool(options.frames):
        parser.error("--watch and --frames go together")
    return options


def main():
    options = parse(sys.argv[1:])
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    try:
        effects = Effects(options.effects)
        bus = open_bus(options)
        server = EffectServer(options.listen, effects)
        listener = BusListener(bus, options.watch, options.frames) if bus else None
    except ImportError as error:
        sys.exit(f"error: {error}\n  fix: run scripts/material.sh pylib and set PYTHONPATH to material/pylib")
    except Exception as error:  # python-can's backends raise their own kinds
        sys.exit(f"error: the ledger cannot start: {error}\n"
                 "  fix: check the paths, the port and the bus (multicast needs a route, socketcan an interface)")

    threading.Thread(target=server.serve_forever, name="effects", daemon=True).start()
    if listener:
        listener.start()
    print(server.server_address[1], flush=True)
    ending.wait()

    server.shutdown()
    if listener:
        heard_all = listener.is_alive()
        listener.end()
        if not heard_all:
            sys.exit("error: the bus listener ended early; its counts are not whole")
    summary = {"frames": listener.summary() if listener else None, "effects": effects.summary()}
    part = options.summary.with_name(options.summary.name + ".part")
    part.write_text(json.dumps(summary, indent=1) + "\n")
    part.replace(options.summary)


if __name__ == "__main__":
    main()
