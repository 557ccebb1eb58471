"""A fault that lies behind three conditions, each inside the one before: who mutates blindly does not come to it."""

from __future__ import annotations

from tests.reliability.fuzz_watch import Target


class PlantedError(Exception):
    """Found."""


def _read(data: bytes) -> None:
    if len(data) < 3:
        return
    # Not one condition with `and`: each in a branch of its own is what the fuzzer sees.
    if data[0] == 0x93:  # noqa: SIM102
        if data[1] == 0x4C:  # noqa: SIM102
            if data[2] == 0x05:
                raise PlantedError("behind three conditions")


PLANTED = Target("planted", _read, (b"hello!!",))
