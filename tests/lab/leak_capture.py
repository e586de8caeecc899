"""Records packets that leave a namespace of `enter.sh --watched`, one per line.

    leak_capture.py FILE

A line has the seconds since the start, the protocol, the source, and the destination with its port. Messages that the kernel sends
on any IPv6 link (neighbours, routers, multicast groups) are left out. "listening" on standard error means that the capture has
begun.
"""

import socket
import struct
import sys
import time

FAR_END = "watch"
EVERY_PROTOCOL = 0x0003
OUTGOING = 4
IPV4, IPV6 = 0x0800, 0x86DD
NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
HOP_BY_HOP = 0
KERNEL_MESSAGES = {130, 131, 132, 133, 134, 135, 136, 143}


def ports(protocol, payload):
    if protocol in (6, 17) and len(payload) >= 4:
        return struct.unpack(">HH", payload[:4])
    return None


def describe(kind, packet):
    """Returns a description of the packet, or None for a message of the kernel."""
    if kind == IPV4:
        length = (packet[0] & 15) * 4
        protocol, payload = packet[9], packet[length:]
        ends = [socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16)]
    elif kind == IPV6:
        protocol, payload = packet[6], packet[40:]
        ends = [socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24)]
        if protocol == HOP_BY_HOP and len(payload) > 8:  # present in reports of multicast groups
            protocol, payload = payload[0], payload[(payload[1] + 1) * 8 :]
        if protocol == 58 and payload and payload[0] in KERNEL_MESSAGES:
            return None
    else:
        return f"ethertype-{kind:04x}"
    found = ports(protocol, payload)
    to = f"{ends[1]} port {found[1]}" if found else ends[1]
    return f"{NAMES.get(protocol, protocol)} {ends[0]} -> {to}"


def main():
    began = time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL)) as far_end:
        far_end.bind((FAR_END, 0))
        with open(sys.argv[1], "a", encoding="utf-8", buffering=1) as file:
            print("listening", file=sys.stderr, flush=True)
            while True:
                frame, (_, _, direction, *_) = far_end.recvfrom(65535)
                if direction == OUTGOING:
                    continue
                (kind,) = struct.unpack(">H", frame[12:14])
                try:
                    line = describe(kind, frame[14:])
                except (IndexError, ValueError):  # the capture must continue
                    line = f"truncated, ethertype-{kind:04x}"
                if line:
                    print(f"{time.monotonic() - began:.3f} {line}", file=file)


main()
