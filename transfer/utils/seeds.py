"""Separate random streams from one seed, so that two recipes with the same seed see the same batches."""

import hashlib


def stream(seed: int, name: str, number: int = 0) -> int:
    """Seed of a named stream ("weights", "order", "augment", "dropping"), in an epoch or a step of one: 63 bits.

    Each epoch has its own, and of these each step (the name is "step" then), so that a resumed run needs no
    generator state.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()[:8]) >> 1
