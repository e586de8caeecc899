"""Sends requests to an Electrum server over TLS or WebSocket, with other implementations.

    tls_call.py [--tls 1.2|1.3] [--pin CERT] HOST:PORT METHOD      repeats the request for each line on standard input
    tls_call.py --ws URL METHOD                                    one request, with aiohttp

Prints the result of each request as JSON, for TLS with the version and the SHA-256 of the certificate. With --pin, the certificate
must be the one in the file, under OpenSSL's strict rules; otherwise any certificate is accepted.
"""

import argparse
import asyncio
import hashlib
import json
import socket
import ssl
import sys

SECONDS = 10


def context(version, pin):
    result = ssl.create_default_context(cafile=pin) if pin else ssl.create_default_context()
    result.check_hostname = False
    if pin:
        result.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        result.verify_mode = ssl.CERT_NONE
    if version:
        result.minimum_version = result.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
    return result


def by_tls(given):
    host, _, port = given.server.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=SECONDS)
    stream = context(given.tls, given.pin).wrap_socket(plain, server_hostname=host)
    lines = stream.makefile("rwb")
    certificate = hashlib.sha256(stream.getpeercert(binary_form=True)).hexdigest()
    while True:
        lines.write(json.dumps({"id": 1, "method": given.method}).encode() + b"\n")
        lines.flush()
        result = json.loads(lines.readline())["result"]
        print(json.dumps({"result": result, "tls": stream.version(), "certificate": certificate}), flush=True)
        if not sys.stdin.readline():
            return


async def by_websocket(given):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(given.ws, ssl=False, timeout=aiohttp.ClientWSTimeout(ws_close=SECONDS)) as messages:
            await messages.send_str(json.dumps({"id": 1, "method": given.method}))
            print(json.dumps({"result": json.loads(await messages.receive_str(timeout=SECONDS))["result"]}))


def main():
    arguments = argparse.ArgumentParser(usage=__doc__)
    arguments.add_argument("--tls", choices=["1.2", "1.3"])
    arguments.add_argument("--pin")
    arguments.add_argument("--ws")
    arguments.add_argument("server", nargs="?")
    arguments.add_argument("method")
    given = arguments.parse_args()
    if given.ws:
        asyncio.run(by_websocket(given))
    else:
        by_tls(given)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"tls_call.py: {error}")
