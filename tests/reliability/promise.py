"""One line of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """`promise` says what is held to, with the figure to reach; `measured` what came out; `kept` compares the two."""

    promise: str
    measured: str
    kept: bool
