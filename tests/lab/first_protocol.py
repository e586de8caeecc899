"""Scripted Electrum server with the first protocol version only.

    first_protocol.py BIND_IP PORT       plain TCP; prints each method on standard error

The result of server.version is a string with the software (later versions return a pair). The header has the old fields. There is
no server.features, no server.add_peer, and no "jsonrpc" in responses. The chain is the genesis block of regtest.
"""

import asyncio
import json
import sys

MAX_LINE_BYTES = 1_000_000
HEADER = {
    "block_height": 0,
    "version": 1,
    "prev_block_hash": "0" * 64,
    "merkle_root": "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b",
    "timestamp": 1296688602,
    "bits": 0x207FFFFF,
    "nonce": 2,
}
ANSWERS = {
    "server.version": "ElectrumServer 1.0",
    "server.banner": "Welcome to Electrum!",
    "server.peers.subscribe": [],
    "blockchain.headers.subscribe": HEADER,
}


def reply(line):
    try:
        request = json.loads(line)
        method, number = request["method"], request.get("id")
    except (ValueError, TypeError, KeyError):
        print("not a request:", line[:200], file=sys.stderr, flush=True)
        return {"id": None, "error": {"code": -32600, "message": "invalid request"}}
    print(method, file=sys.stderr, flush=True)
    if method in ANSWERS:
        return {"id": number, "result": ANSWERS[method]}
    return {"id": number, "error": {"code": -32601, "message": "unknown method"}}


async def session(reader, writer):
    try:
        while line := await reader.readline():
            writer.write(json.dumps(reply(line)).encode() + b"\n")
            await writer.drain()
    except (ConnectionError, ValueError):  # disconnected, or the line is too long
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(session, sys.argv[1], int(sys.argv[2]), limit=MAX_LINE_BYTES)
    print("listening", file=sys.stderr, flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
