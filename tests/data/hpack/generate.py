"""Writes vectors.txt: header blocks, and what the `hpack` package (PyPI, 4.2.0) reads in them.

    pip install hpack==4.2.0 && python3 generate.py > vectors.txt

A line is `connection LIMIT` with the largest table the decoder allows, or a block in hex with its fields (name, value,
name, ...) in hex, each behind a dot, or with `refused`. Blocks of a connection follow each other; a refused one ends
it. What the two decoders see differently on purpose is left out: integers beyond 32 bits.
"""

import random

from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hpack.exceptions import HPACKError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman import HuffmanEncoder

CHOICE = random.Random(7541)
HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
NAMES = [b":method", b":path", b":status", b"accept", b"cookie", b"x-a", b"x-b", b"user-agent", b"x" * 40, b"grpc-status"]
VALUES = [b"", b"GET", b"PUT", b"/", b"/index.html", b"200", b"302", b"gzip, deflate", b"0", b"a" * 90, b"\xc3\xa9\x00\xff", b"text/html"]


def field():
    value = CHOICE.choice(VALUES) if CHOICE.random() < 0.7 else bytes(CHOICE.randrange(256) for _ in range(CHOICE.randrange(24)))
    return CHOICE.choice(NAMES), value


def integer(flags, prefix, value):
    mask = (1 << prefix) - 1
    if value < mask:
        return bytes([flags | value])
    out, value = [flags | mask], value - mask
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes(out + [value])


def text(value):
    if CHOICE.random() < 0.5:
        return integer(0, 7, len(value)) + value
    coded = HUFFMAN.encode(value)
    return integer(128, 7, len(coded)) + coded


def any_block(limit):
    """Representations in any order and with any index, most of which exist."""
    out = b""
    if CHOICE.random() < 0.2:
        out += integer(0x20, 5, CHOICE.choice([0, 100, 500, limit]))
    for _ in range(CHOICE.randrange(6)):
        index = CHOICE.choice([0, CHOICE.randrange(1, 62), CHOICE.randrange(62, 70)])
        name, value = field()
        flags, prefix = CHOICE.choice([(0x80, 7), (0x40, 6), (0, 4), (0x10, 4)])
        out += integer(flags, prefix, max(index, 1) if flags == 0x80 else index)
        if flags != 0x80:
            out += (text(name) if index == 0 else b"") + text(value)
    return out


def encoded(encoder, limit):
    if CHOICE.random() < 0.1:
        encoder.header_table_size = CHOICE.choice([0, 64, 300, 4096, limit])
    fields = [field() for _ in range(CHOICE.randrange(7))]
    kinds = [CHOICE.choice([HeaderTuple, HeaderTuple, NeverIndexedHeaderTuple])(*one) for one in fields]
    return encoder.encode(kinds, huffman=CHOICE.random() < 0.6)


def damaged(block):
    block = bytearray(block)
    for _ in range(CHOICE.randrange(1, 3)):
        if block:
            at = CHOICE.randrange(len(block))
            if CHOICE.random() < 0.5:
                block[at] ^= 1 << CHOICE.randrange(8)
            else:
                del block[at]
    return bytes(block)


def has_long_integer(block):
    return any(block[at : at + 4] > b"\x80" * 4 and all(byte & 128 for byte in block[at : at + 4]) for at in range(len(block)))


def connection(make, blocks, damage):
    limit = CHOICE.choice([4096, 4096, 8192, 65536])
    encoder, decoder = Encoder(), Decoder()
    decoder.max_allowed_table_size = limit
    # a watcher does not know when a limit is in force
    decoder.header_table.maxsize = 4096
    print("connection", limit)
    for _ in range(blocks):
        block = make(encoder, limit)
        if CHOICE.random() < damage:
            block = damaged(block)
            if has_long_integer(block):
                return
        try:
            fields = decoder.decode(block, raw=True)
        except HPACKError:
            print(block.hex() or ".", "refused")
            return
        print(" ".join([block.hex() or "."] + ["." + part.hex() for pair in fields for part in pair]))


print("# made by generate.py with hpack 4.2.0")
for _ in range(12):
    connection(encoded, 20, 0.0)
for _ in range(300):
    connection(encoded, 5, 0.3)
for _ in range(300):
    connection(lambda _, limit: any_block(limit), 6, 0.05)
