"""Replaces bitcoind: the JSON-RPC methods that ElectrumX uses, on a chain of regtest.

    bitcoind.py PORT                        the chain has only the genesis block
    bitcoind.py PORT SEED COMMON TOTAL      the chain has TOTAL blocks, of which those above COMMON depend on SEED

Listens on 127.0.0.1; prints unknown methods on standard error.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.dont_write_bytecode = True  # no __pycache__ in a source tree

from regtest_chain import GENESIS_BLOCK, double_sha256, mine_chain  # noqa: E402

blocks = [bytes.fromhex(GENESIS_BLOCK)]
FIXED = {
    "getnetworkinfo": {
        "version": 310000, "subversion": "/Satoshi:31.0.0/", "relayfee": 0.00001, "networkactive": True,
        "connections": 1, "warnings": "",
    },
    "getmempoolinfo": {
        "mempoolminfee": 0.00001, "minrelaytxfee": 0.00001, "incrementalrelayfee": 0.00001, "size": 0, "bytes": 0,
        "usage": 0, "maxmempool": 300000000,
    },
    "estimatesmartfee": {"errors": ["Insufficient data"], "blocks": 2},
    "getindexinfo": {
        name: {"synced": True, "best_block_height": 0} for name in ("txindex", "txospenderindex", "coinstatsindex")
    },
    "uptime": 100,
    "getzmqnotifications": [],
    "help": "",
}


def block_hash(block):
    return double_sha256(block[:80])[::-1].hex()


def block_of(hash_text):
    return next(block for block in blocks if block_hash(block) == hash_text)


def answer(method, params):
    tip = len(blocks) - 1
    match method:
        case "getblockcount":
            return tip
        case "getbestblockhash":
            return block_hash(blocks[-1])
        case "getblockhash":
            return block_hash(blocks[params[0]])
        case "getblock":
            return block_of(params[0]).hex()
        case "getblockheader":
            block = block_of(params[0])
            raw = len(params) > 1 and params[1] is False
            return block[:80].hex() if raw else {"hash": params[0], "height": blocks.index(block)}
        case "getblockchaininfo":
            return {
                "chain": "regtest", "blocks": tip, "headers": tip, "bestblockhash": block_hash(blocks[-1]),
                "initialblockdownload": False, "verificationprogress": 1, "pruned": False, "difficulty": 1, "warnings": "",
            }
        case "getrawmempool":
            return {} if params and params[0] else []
    return FIXED[method]


def reply(request):
    try:
        result = answer(request["method"], request.get("params") or [])
        return {"result": result, "error": None, "id": request.get("id")}
    except KeyError:
        print("unknown method", request.get("method"), file=sys.stderr, flush=True)
        return {"result": None, "error": {"code": -32601, "message": "Method not found"}, "id": request.get("id")}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answers = [reply(r) for r in request] if isinstance(request, list) else reply(request)
        body = json.dumps(answers).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        blocks = mine_chain(*map(int, sys.argv[2:5]))
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("listening", flush=True)
    server.serve_forever()
