"""A network namespace of one's own with a loopback, so that its byte counter counts nobody else."""

import ctypes
import fcntl
import multiprocessing
import os
import pathlib
import socket
import struct

from .node import Failure

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def _enter():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise Failure(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def bytes_so_far():
    """Bytes that have gone over this namespace's loopback, headers included."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[0])
    return 0


def inside(work, *arguments):
    """Runs `work(*arguments)` in a child process in such a namespace and returns what it returns."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child():
        try:
            _enter()
            theirs.send((work(*arguments), None))
        except Exception as error:
            theirs.send((None, str(error)))

    process = context.Process(target=child)
    process.start()
    theirs.close()
    result, error = ours.recv()
    process.join()
    if error:
        raise Failure(error)
    return result
