"""Announces one server to another: `server.add_peer` with its features.

    add-peer.py SERVER_IP SERVER_PORT SOURCE_IP FEATURES_FROM

Fetches server.features from FEATURES_FROM (HOST:PORT) and sends server.add_peer with them to SERVER_IP:SERVER_PORT. The source
address is SOURCE_IP, since servers require that a clearnet host is announced from its own address. Prints the result. Exit status:
0 if the result is true, 1 if it is false, 2 without a result.
"""

import json
import sys

sys.dont_write_bytecode = True  # no __pycache__ in a source tree

from call import Electrum, split  # noqa: E402


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    server, port, source, features_from = sys.argv[1:]
    try:
        with Electrum(*split(features_from)) as new:
            features = new.call("server.features")
        with Electrum(server, int(port), source=source) as receiver:
            result = receiver.call("server.add_peer", [features])
    except (OSError, RuntimeError, ValueError) as error:
        print(f"add-peer.py: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result))
    sys.exit(0 if result is True else 1)


main()
