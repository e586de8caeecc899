"""Scripted clearnet peers for an ElectrumX: one process that listens on N addresses and passes verification.

    peers.py hosts N       lines for /etc/hosts: ADDRESS pI.example.org, I from 1 to N
    peers.py routes N      lines for `ip -batch -` that give `lo` these addresses
    peers.py serve N       listens on all addresses, port 51001; prints the number of the peer and the method of each
                           request on standard error

Peer I lists peers 2I and 2I+1. ElectrumX adds at most two unknown peers per list, so each round doubles the number. (ElectrumX
compares each entry with all known peers. With complete lists, 200 peers took 5 s and 1000 peers more than 2 minutes.)
No two addresses share a /16, of which ElectrumX lists at most two. None is an address of enter.sh.
"""

import asyncio
import sys

sys.dont_write_bytecode = True  # no __pycache__ in a source tree

from bitcoind import GENESIS_BLOCK  # noqa: E402
from peer_swarm import NEWEST, Server, serve  # noqa: E402

HOME = "5.9.0.9"  # default source address in enter.sh
HEADER = GENESIS_BLOCK[:160]


class Peer(Server):
    software, port = "Peer 1.0", 51001
    all_peers = ()

    def address(self):
        return f"{20 + self.number % 25}.{self.number // 25 + 1}.7.1"  # public addresses: 20.0.0.0 to 44.255.255.255

    def name(self):
        return f"p{self.number}.example.org"

    def result(self, method, params):
        if method == "server.peers.subscribe":
            children = self.all_peers[2 * self.number - 1 : 2 * self.number + 1]  # numbers start at 1
            return [[peer.address(), peer.name(), [f"v{NEWEST}", f"t{peer.port}"]] for peer in children]
        if method == "blockchain.headers.subscribe":
            return {"height": 0, "hex": HEADER}
        if method == "blockchain.block.header" and params == [0]:
            return HEADER
        if method == "server.add_peer":  # ElectrumX announces itself; it would count an error as a failure
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
        Peer.all_peers = peers
        asyncio.run(serve(peers))


main()
