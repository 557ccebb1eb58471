"""Damaged bytes: what disks, networks and people with bad intentions make of a file. Every draw comes from a seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence

# Counts and sizes that headers lie with.
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 20_000, 1_000_000)
_LARGEST = 1 << 16  # bytes: inputs stay small, so that what takes long or much is not their length


def _flip(rng: random.Random, data: bytearray, _: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))


def _lie(rng: random.Random, data: bytearray, _: bytes) -> None:
    """A number of two or four bytes, mostly near the beginning, where sizes stand."""
    form = rng.choice((">I", "<I", ">H", "<H"))
    number = struct.pack(form, rng.choice(_EDGES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    at = rng.randrange(min(len(data), rng.choice((32, 256, len(data)))))
    data[at : at + len(number)] = number


def _truncate(rng: random.Random, data: bytearray, _: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(rng: random.Random, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 4, 16, 256))]


def _repeat(rng: random.Random, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((1, 4, 64, 512))] * rng.choice((1, 2, 16))


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    """The beginning of the one, the end of the other."""
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def _insert(rng: random.Random, data: bytearray, other: bytes) -> None:
    at, start = rng.randrange(len(data)), rng.randrange(len(other))
    data[at:at] = other[start : start + rng.choice((1, 8, 64))]


_CHANGES: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (
    *(_flip, _flip, _overwrite, _lie, _lie, _truncate, _remove, _repeat, _splice, _insert),
)


def damaged(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """`data` after one to four changes, some of which take from `other`."""
    changed = bytearray(data)
    for change in rng.choices(_CHANGES, k=rng.choice((1, 1, 2, 4))):
        if changed:
            change(rng, changed, other or b"\0")
    return bytes(changed[:_LARGEST])


def damaged_of(seed: int, seeds: Sequence[bytes]) -> Iterator[bytes]:
    """Endlessly; every one of `seeds` in turn."""
    rng = random.Random(seed)
    while True:
        for data in seeds:
            yield damaged(rng, data, rng.choice(seeds))
