#!/usr/bin/env python3
"""Knocks at a node's TLS port and says whether it would let this caller in.

    knock.py HOST PORT CA [CERT KEY]

Prints `in`, or `refused: why`. By OpenSSL, which shares no code with what it tests. A server that asks for a certificate
refuses after the handshake (TLS 1.3), so the answer is what comes instead of silence.
"""

import socket
import ssl
import sys

SILENCE_S = 0.7  # refusals come at once; who is let in is waited for


def knock(host, port, ca, identity):
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    if identity:
        context.load_cert_chain(*identity)
    try:
        with socket.create_connection((host, port), timeout=5) as plain, context.wrap_socket(plain) as secure:
            secure.settimeout(SILENCE_S)
            return "in" if secure.recv(1) else "refused: closed without a word"
    except TimeoutError:
        return "in"
    except (ssl.SSLError, OSError) as why:
        return f"refused: {getattr(why, 'reason', None) or why}"


if __name__ == "__main__":
    print(knock(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:6]))
