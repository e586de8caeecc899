"""Clearnet peers for an ElectrumX, scripted: one process that answers on N addresses, each with what a server is verified by.

    peers.py hosts N       lines for /etc/hosts: ADDRESS pI.example.org, I from 1 to N
    peers.py routes N      lines for `ip -batch -` that give `lo` these addresses
    peers.py serve N       listens on all of them, port 51001; each method called is named on standard error, after its
                           peer's number

Peer I tells of peers 2I and 2I+1: of a list ElectrumX takes up two at most that it doesn't know, so each round brings twice as
many as the one before. (It compares each entry of a list with all it knows; were everyone to tell of everyone, 200 took it 5 s
and 1000 longer than 2 minutes.)
No two addresses share a /16, of which ElectrumX lists two at most, and none is one of enter.sh's.
"""

import asyncio
import sys

sys.dont_write_bytecode = True  # no __pycache__ in a source tree

from bitcoind import GENESIS_BLOCK  # noqa: E402
from crowd import NEWEST, Server, serve  # noqa: E402

HOME = "5.9.0.9"  # enter.sh's: where calls come from that choose no address
HEADER = GENESIS_BLOCK[:160]


class Peer(Server):
    software, port = "Peer 1.0", 51001
    everyone = ()

    def address(self):
        return f"{20 + self.number % 25}.{self.number // 25 + 1}.7.1"  # public all of them: 20.0.0.0 to 44.255.255.255

    def name(self):
        return f"p{self.number}.example.org"

    def result(self, method, params):
        if method == "server.peers.subscribe":
            children = self.everyone[2 * self.number - 1 : 2 * self.number + 1]  # the first is number 1
            return [[peer.address(), peer.name(), [f"v{NEWEST}", f"t{peer.port}"]] for peer in children]
        if method == "blockchain.headers.subscribe":
            return {"height": 0, "hex": HEADER}
        if method == "blockchain.block.header" and params == [0]:
            return HEADER
        if method == "server.add_peer":  # ElectrumX announces itself to servers that lack it; an error would count against us
            return True
        return super().result(method, params)


def main():
    match sys.argv[1:]:
        case [command, count] if command in ("hosts", "routes", "serve"):
            peers = [Peer(number) for number in range(1, int(count) + 1)]
        case _:
            sys.exit(__doc__)
    if command == "hosts":
        for peer in peers:
            print(peer.address(), peer.name())
    elif command == "routes":
        for peer in peers:
            print(f"address add {peer.address()}/32 dev lo")
            print(f"route replace local {peer.address()} dev lo table local src {HOME}")
    else:
        Peer.everyone = peers
        asyncio.run(serve(peers))


main()
