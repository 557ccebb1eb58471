"""A fault that lies behind five conditions, each inside the one before: who mutates blindly does not come to it."""

from __future__ import annotations

from benchmarks.trust.fuzz_watch import Target


class PlantedError(Exception):
    """Found."""


def _read(data: bytes) -> None:
    for place, byte in enumerate(b"\x93L\x05~\xc0"):
        if data[place : place + 1] != bytes([byte]):
            return
        _reached[place]()
    raise PlantedError("behind five conditions")


# A branch of its own for each place: that is what the fuzzer sees.
_reached = (lambda: 0, lambda: 1, lambda: 2, lambda: 3, lambda: 4)

PLANTED = Target("planted", _read, (b"hello!!",))
