"""Bodies that can be told from all others: a function of a seed and a size. Servers have the same function."""

import hashlib


def body(seed: str, size: int) -> bytes:
    """`size` bytes that look random, of the seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
