"""Starts a program with listening sockets, as systemd does for a socket unit.

    activate.py NAME=IP:PORT... -- PROGRAM ARGS...     NAME as in FileDescriptorName=
"""

import os
import socket
import sys

FIRST = 3


def main():
    split = sys.argv.index("--")
    names, sockets = [], []
    for word in sys.argv[1:split]:
        name, _, address = word.partition("=")
        host, _, port = address.rpartition(":")
        listener = socket.create_server((host, int(port)))
        names.append(name)
        sockets.append(listener.detach())
    # Moved to free numbers first, as one descriptor may have the number of another.
    high = [os.dup(number) for number in sockets]
    for target, number in enumerate(high, FIRST):
        os.dup2(number, target)
    os.closerange(FIRST + len(names), 256)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
    os.execv(sys.argv[split + 1], sys.argv[split + 1 :])


if __name__ == "__main__":
    main()
