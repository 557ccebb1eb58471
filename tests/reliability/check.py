"""One line of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`claim` says what must hold, with its limit; `measured` what was found; `passed` compares the two."""

    claim: str
    measured: str
    passed: bool

    @property
    def verdict(self) -> str:
        return "passed" if self.passed else "FAILED"
