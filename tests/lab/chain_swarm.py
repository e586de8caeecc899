"""Scripted clearnet servers with the headers of a mined chain of regtest.

    chain_swarm.py SEED COMMON TOTAL ADDRESS...     listens on port 50001 of each address; its name is the address

Prints the address and the method of each request on standard error.
"""

import asyncio
import sys

sys.dont_write_bytecode = True  # no __pycache__ in a source tree

from peer_swarm import Server, serve  # noqa: E402
from regtest_chain import mine_chain  # noqa: E402

MAX_HEADERS = 2016


class ChainServer(Server):
    headers = ()

    def address(self):
        return self.number

    def name(self):
        return self.number

    def result(self, method, params):
        headers = ChainServer.headers
        match method:
            case "blockchain.headers.subscribe":
                return {"height": len(headers) - 1, "hex": headers[-1]}
            case "blockchain.block.header" if 0 <= params[0] < len(headers):
                return headers[params[0]]
            case "blockchain.block.headers":
                start, count = params[0], min(params[1], MAX_HEADERS)
                chunk = headers[start : start + count]
                return {"hex": "".join(chunk), "count": len(chunk), "max": MAX_HEADERS}
        return super().result(method, params)


def main():
    seed, common, total, *addresses = sys.argv[1:]
    ChainServer.headers = [block[:80].hex() for block in mine_chain(int(seed), int(common), int(total))]
    asyncio.run(serve([ChainServer(address) for address in addresses]))


main()
