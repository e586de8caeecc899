"""Replaces bitcoind: the JSON-RPC methods that ElectrumX uses, on a regtest chain with only the genesis block.

    bitcoind.py PORT       listens on 127.0.0.1; prints unknown methods on standard error
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GENESIS_HASH = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
GENESIS_BLOCK = (
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e67768f6"
    "17fc81bc3888a51323a9fb8aa4b1e5e4adae5494dffff7f20020000000101000000010000000000000000000000000000000000"
    "000000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d65732030332f4a616e2f32303039204368"
    "616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2"
    "052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504"
    "e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)
FIXED = {
    "getblockcount": 0,
    "getbestblockhash": GENESIS_HASH,
    "getblockhash": GENESIS_HASH,
    "getblock": GENESIS_BLOCK,
    "getnetworkinfo": {
        "version": 310000, "subversion": "/Satoshi:31.0.0/", "relayfee": 0.00001, "networkactive": True,
        "connections": 1, "warnings": "",
    },
    "getblockchaininfo": {
        "chain": "regtest", "blocks": 0, "headers": 0, "bestblockhash": GENESIS_HASH, "initialblockdownload": False,
        "verificationprogress": 1, "pruned": False, "difficulty": 1, "warnings": "",
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


def answer(method, params):
    if method == "getblockheader":
        raw = len(params) > 1 and params[1] is False
        return GENESIS_BLOCK[:160] if raw else {"hash": GENESIS_HASH, "height": 0}
    if method == "getrawmempool":
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
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("listening", flush=True)
    server.serve_forever()
