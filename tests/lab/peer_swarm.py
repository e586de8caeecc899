"""Scripted Electrum servers: one process that listens on N addresses, each for one onion service.

    peer_swarm.py addresses N                prints the addresses, the targets of the onion services
    peer_swarm.py serve TOR_DIR N            listens on all addresses; prints on standard error the number of the onion service and
                                             the method of each request, and at the end of each session "NUMBER bytes IN OUT"
    peer_swarm.py find TOR_DIR N SECONDS     connects to all N through TOR_DIR/socks until each has answered with its own name;
                                             prints the number and the times; status 1 when some have not answered within SECONDS

TOR_DIR is the directory of tor-network.sh. The name of server i is in TOR_DIR/onion-i, which must exist at its first request. Only
discovery methods are served. The chain is regtest with only the genesis block.
"""

import asyncio
import json
import pathlib
import resource
import struct
import sys
import time

PORT = 50001
MAX_LINE_BYTES = 1_000_000
GENESIS = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
SOFTWARE, OLDEST, NEWEST = "Swarm 1.0", "1.4", "1.6"
ATTEMPT_SECONDS = 60  # C tor gives up after two minutes; a new attempt is faster
AT_ONCE = 50


def address(number):
    """Returns the address of a server. It identifies the onion service, since all use the same port."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def onion(tor, number):
    return (tor / f"onion-{number}").read_text().strip()


# serve


def negotiated(params):
    """Returns the newest version that both sides support."""
    wanted = params[1] if isinstance(params, list) and len(params) > 1 else OLDEST
    wanted = wanted[-1] if isinstance(wanted, list) and wanted else wanted
    try:
        return min(str(wanted), NEWEST, key=lambda version: [int(part) for part in version.split(".")])
    except ValueError:
        return OLDEST


class Server:
    """Scripted server with its address, name and results."""

    software, port = SOFTWARE, PORT

    def __init__(self, number, tor=None):
        self.number, self.tor = number, tor

    def address(self):
        return address(self.number)

    def name(self):
        return onion(self.tor, self.number)

    def result(self, method, params):
        """Returns the result of a request; raises LookupError for an unknown method."""
        if method == "server.version":
            return [self.software, negotiated(params)]
        if method == "server.features":
            return {
                "hosts": {self.name(): {"tcp_port": self.port}},
                "genesis_hash": GENESIS,
                "hash_function": "sha256",
                "protocol_min": OLDEST,
                "protocol_max": NEWEST,
                "server_version": self.software,
                "pruning": None,
            }
        if method == "server.peers.subscribe":
            return []
        if method == "blockchain.headers.subscribe":
            return {"height": 0, "hex": "00" * 80}
        raise LookupError(method)

    def reply(self, line):
        try:
            request = json.loads(line)
            method, call = request["method"], request.get("id")
        except (ValueError, TypeError, KeyError):
            print(self.number, "not a request:", line[:200], file=sys.stderr, flush=True)
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "invalid request"}}
        print(self.number, method, file=sys.stderr, flush=True)
        try:
            return {"jsonrpc": "2.0", "id": call, "result": self.result(method, request.get("params"))}
        except LookupError:
            return {"jsonrpc": "2.0", "id": call, "error": {"code": -32601, "message": "unknown method"}}

    async def session(self, reader, writer):
        received = sent = 0
        try:
            while line := await reader.readline():
                reply = json.dumps(self.reply(line)).encode() + b"\n"
                received, sent = received + len(line), sent + len(reply)
                writer.write(reply)
                await writer.drain()
        except (ConnectionError, ValueError):  # disconnected, or the line is too long
            pass
        finally:
            print(self.number, "bytes", received, sent, file=sys.stderr, flush=True)
            writer.close()


async def serve(servers):
    # one listener and some clients per server
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for server in servers:
        await asyncio.start_server(server.session, server.address(), server.port, limit=MAX_LINE_BYTES)
    print("listening", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


# find


async def answers(socks, name):
    """Checks through Tor that an onion service reports its own name."""
    reader, writer = await asyncio.open_connection(*socks)
    try:
        writer.write(b"\x05\x01\x02")  # tor stalls unless each step waits for the previous reply
        method = await reader.readexactly(2)
        user = name[:16].encode()  # a user name per service isolates circuits
        writer.write(b"\x01" + bytes([len(user)]) + user + b"\x01x")
        if method + await reader.readexactly(2) != b"\x05\x02\x01\x00":
            raise ConnectionError("no SOCKS5 with user names")
        writer.write(b"\x05\x01\x00\x03" + bytes([len(name)]) + name.encode() + struct.pack(">H", PORT))
        code = (await reader.readexactly(10))[1]
        if code:
            raise ConnectionError(f"SOCKS reply 0x{code:02x}")
        for call, (method, params) in enumerate([("server.version", ["lab", "1.4"]), ("server.features", [])]):
            request = {"jsonrpc": "2.0", "id": call, "method": method, "params": params}
            writer.write(json.dumps(request).encode() + b"\n")
            result = json.loads(await reader.readline())["result"]
        if list(result["hosts"]) != [name]:
            raise ValueError(f"the reported hosts are {list(result['hosts'])}")
    finally:
        writer.close()


async def find(tor, count, seconds):
    host, port = (tor / "socks").read_text().strip().split(":")
    began, bound = time.monotonic(), asyncio.Semaphore(AT_ONCE)
    found, failed, last = [], 0, {}  # times of success; failed attempts; last error by name

    async def until_found(name):
        nonlocal failed
        while True:
            async with bound:
                try:
                    await asyncio.wait_for(answers((host, int(port)), name), ATTEMPT_SECONDS)
                    break
                except (OSError, ValueError, KeyError, EOFError, asyncio.TimeoutError) as error:
                    last[name] = str(error) or type(error).__name__
                    failed += 1
            await asyncio.sleep(1)
        last.pop(name, None)
        found.append(time.monotonic() - began)

    tasks = [asyncio.create_task(until_found(onion(tor, number))) for number in range(1, count + 1)]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    if found:
        half, most = found[(len(found) - 1) // 2], found[-1]
        print(f"{len(found)} of {count} found: half within {half:.1f} s, the last after {most:.1f} s; {failed} attempts failed")
    for name, reason in sorted(last.items())[:5]:
        print(f"not found: {name}: {reason}", file=sys.stderr)
    return len(found) == count


def main():
    match sys.argv[1:]:
        case ["addresses", count]:
            for number in range(1, int(count) + 1):
                print(f"{address(number)}:{PORT}")
        case ["serve", tor, count]:
            asyncio.run(serve([Server(number, pathlib.Path(tor)) for number in range(1, int(count) + 1)]))
        case ["find", tor, count, seconds]:
            sys.exit(not asyncio.run(find(pathlib.Path(tor), int(count), float(seconds))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
