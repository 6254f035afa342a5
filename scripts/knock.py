#!/usr/bin/env python3
"""Knocks at a node's TLS port and says whether it would let this caller in.

    knock.py HOST PORT CA [CERT KEY]

Prints `in`, or `refused: why`, or `nobody: why` if nothing speaks TLS there even after a while, which is no refusal. By
OpenSSL, which shares no code with what it tests. A server that asks for a certificate refuses after the handshake (TLS
1.3), so the answer is what comes instead of silence.
"""

import socket
import ssl
import sys
import time

SILENCE_S = 0.7  # refusals come at once; who is let in is waited for
LISTENS_WITHIN_S = 20.0
ANSWERS_WITHIN_S = 5.0
AGAIN_S = 0.1


def reach(host, port, within):
    """A connection to the port, as soon as somebody listens there."""
    end = time.monotonic() + within
    while True:
        try:
            return socket.create_connection((host, port), timeout=ANSWERS_WITHIN_S)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(AGAIN_S)


def knock(host, port, ca, identity, within=LISTENS_WITHIN_S):
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    if identity:
        context.load_cert_chain(*identity)
    try:
        plain = reach(host, port, within)
    except OSError as why:
        return f"nobody: {why}"
    with plain:
        try:
            secure = context.wrap_socket(plain)
        except TimeoutError:
            return "nobody: no answer to a handshake"
        except OSError as why:
            return refusal(why)
        with secure:
            secure.settimeout(SILENCE_S)
            try:
                return "in" if secure.recv(1) else "refused: closed without a word"
            except TimeoutError:
                return "in"
            except OSError as why:
                return refusal(why)


def refusal(why):
    """What was said, as OpenSSL calls it."""
    return f"refused: {getattr(why, 'reason', None) or why}"


if __name__ == "__main__":
    print(knock(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:6]))
