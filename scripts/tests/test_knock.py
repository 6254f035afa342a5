"""Who is let in, who is refused, and what is neither: nobody there.

    PYTHONPATH=target/material/pylib python3 -m unittest discover scripts/tests
"""

import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest

SCRIPTS = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(SCRIPTS))

import knock  # noqa: E402

VERGE = pathlib.Path(os.environ.get("VERGE_BUILD", SCRIPTS.parent / "target")) / "debug/verge"
HOST = "127.0.0.1"


class KnockTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.dir = pathlib.Path(directory.name)
        for realm in ("ours", "theirs"):
            cls.pki("authority", cls.dir / realm, "--realm", realm)
            for node in ("server", "caller"):
                cls.pki("node", cls.dir / realm, node)

    @staticmethod
    def pki(*arguments):
        subprocess.run([VERGE, "pki", *arguments], check=True, capture_output=True)

    def identity(self, realm, node):
        return self.dir / realm / f"{node}.pem", self.dir / realm / f"{node}.key.pem"

    def listen(self):
        listener = socket.create_server((HOST, 0))
        self.addCleanup(listener.close)
        return listener

    def knock(self, port, identity=(), within=0.2):
        return knock.knock(HOST, port, self.dir / "ours/ca.pem", identity, within)

    def serve(self, listener, wants):
        """One caller of a TLS server that asks for a certificate if `wants` says so."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.identity("ours", "server"))
        context.load_verify_locations(self.dir / "ours/ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED if wants else ssl.CERT_NONE

        def one():
            plain, _ = listener.accept()
            with plain:
                try:
                    with context.wrap_socket(plain, server_side=True) as secure:
                        secure.recv(1)  # until the caller goes
                except OSError:
                    pass

        thread = threading.Thread(target=one)
        thread.start()
        self.addCleanup(thread.join)

    def test_who_is_let_in(self):
        table = [  # the server asks for a certificate, the caller's realm, the answer's beginning
            (True, None, "refused: "),
            (True, "theirs", "refused: "),
            (True, "ours", "in"),
            (False, None, "in"),
        ]
        for wants, realm, expected in table:
            with self.subTest(wants=wants, realm=realm):
                listener = self.listen()
                self.serve(listener, wants)
                identity = self.identity(realm, "caller") if realm else ()
                said = self.knock(listener.getsockname()[1], identity)
                self.assertTrue(said.startswith(expected), said)

    def test_a_port_where_nobody_listens_refuses_nobody(self):
        listener = self.listen()
        port = listener.getsockname()[1]
        listener.close()
        self.assertTrue(self.knock(port).startswith("nobody: "))

    def test_a_server_that_comes_late_is_waited_for(self):
        with socket.socket() as held:
            held.bind((HOST, 0))
            listens = threading.Timer(0.3, lambda: (held.listen(), self.serve(held, True)))
            listens.start()
            said = self.knock(held.getsockname()[1], within=10)
            listens.join()
        self.assertTrue(said.startswith("refused: "), said)

    def test_a_server_that_says_nothing_refuses_nobody(self):
        listener = self.listen()
        patience, knock.ANSWERS_WITHIN_S = knock.ANSWERS_WITHIN_S, 0.3
        self.addCleanup(setattr, knock, "ANSWERS_WITHIN_S", patience)
        self.assertTrue(self.knock(listener.getsockname()[1]).startswith("nobody: "))


if __name__ == "__main__":
    unittest.main()
