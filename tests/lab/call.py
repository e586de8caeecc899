"""Sends one request to an Electrum server, after server.version, and prints the result as JSON.

    call.py [--from SOURCE_IP] [--socks IP:PORT] [--tls] [--seconds N] HOST:PORT METHOD [PARAMS_AS_JSON]

TCP, or TLS with any certificate, direct or through a SOCKS5 proxy. Fails (status 1) without a result within N seconds (20).
"""

import argparse
import json
import socket
import ssl
import struct
import sys
import time

MAX_REPLY_BYTES = 4_000_000


def split(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Electrum:
    """Connection to a server, with one deadline for all requests."""

    def __init__(self, host, port, source=None, socks=None, seconds=20.0, tls=False):
        self.deadline = time.monotonic() + seconds
        self.received = b""
        self.calls = 0
        bound = (source, 0) if source else None
        self.socket = socket.create_connection(socks or (host, port), timeout=seconds, source_address=bound)
        if socks:
            self._through_socks(host, port)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
        self.version = self.call("server.version", ["lab", "1.4"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _more(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no reply in time")
        self.socket.settimeout(left)
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed by the other side")
        self.received += data

    def _exactly(self, length):
        while len(self.received) < length:
            self._more()
        data, self.received = self.received[:length], self.received[length:]
        return data

    def _through_socks(self, host, port):
        name = host.encode()
        self.socket.sendall(b"\x05\x01\x00")
        self._exactly(2)
        self.socket.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", port))
        _, code, _, kind = self._exactly(4)
        if code:
            raise ConnectionError(f"SOCKS reply 0x{code:02x}")
        self._exactly({1: 4, 4: 16}[kind] + 2)

    def call(self, method, params=()):
        self.calls += 1
        request = {"jsonrpc": "2.0", "id": self.calls, "method": method, "params": list(params)}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            while b"\n" not in self.received:
                if len(self.received) > MAX_REPLY_BYTES:
                    raise ConnectionError("reply too long")
                self._more()
            line, self.received = self.received.split(b"\n", 1)
            reply = json.loads(line)
            if reply.get("id") == self.calls:  # otherwise a notification
                break
        if reply.get("error") is not None:
            raise RuntimeError(f"{method}: {json.dumps(reply['error'])}")
        return reply["result"]


def main():
    arguments = argparse.ArgumentParser(usage=__doc__)
    arguments.add_argument("--from", dest="source")
    arguments.add_argument("--socks", type=split)
    arguments.add_argument("--tls", action="store_true")
    arguments.add_argument("--seconds", type=float, default=20.0)
    arguments.add_argument("server", type=split)
    arguments.add_argument("method")
    arguments.add_argument("params", type=json.loads, nargs="?", default=[])
    given = arguments.parse_args()
    with Electrum(*given.server, given.source, given.socks, given.seconds, given.tls) as server:
        result = server.version if given.method == "server.version" else server.call(given.method, given.params)
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"call.py: {error}")
