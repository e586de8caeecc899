"""Mined chains of regtest. Two chains with different seeds have the first blocks in common."""

import hashlib

GENESIS_BLOCK = (
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e67768f6"
    "17fc81bc3888a51323a9fb8aa4b1e5e4adae5494dffff7f20020000000101000000010000000000000000000000000000000000"
    "000000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d65732030332f4a616e2f32303039204368"
    "616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2"
    "052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504"
    "e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)
BITS = 0x207FFFFF
TARGET = 0x7FFFFF << 8 * (0x20 - 3)
START = 1_700_000_000


def double_sha256(data):
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def coinbase(height, seed):
    """Returns a transaction whose id depends on the height and the seed."""
    script = b"\x08" + height.to_bytes(4, "little") + seed.to_bytes(4, "little")
    return (
        (1).to_bytes(4, "little") + b"\x01" + bytes(32) + b"\xff" * 4 + bytes([len(script)]) + script + b"\xff" * 4
        + b"\x01" + (5_000_000_000).to_bytes(8, "little") + b"\x01\x51" + bytes(4)
    )


def mine(previous, height, seed):
    transaction = coinbase(height, seed)
    head = (2).to_bytes(4, "little") + previous + double_sha256(transaction)
    head += (START + 600 * height).to_bytes(4, "little") + BITS.to_bytes(4, "little")
    for nonce in range(1 << 32):
        header = head + nonce.to_bytes(4, "little")
        if int.from_bytes(double_sha256(header), "little") <= TARGET:
            return header + b"\x01" + transaction
    raise AssertionError("no nonce")


def mine_chain(seed, common, total):
    """Returns the blocks 0 to `total`. Those up to `common` are the same for all seeds."""
    blocks = [bytes.fromhex(GENESIS_BLOCK)]
    for height in range(1, total + 1):
        blocks.append(mine(double_sha256(blocks[-1][:80]), height, seed if height > common else 0))
    return blocks
