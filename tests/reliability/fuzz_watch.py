"""Gives one input after another to a reader and keeps account: what was raised, how long it took, what broke it."""

from __future__ import annotations

import hashlib
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hart_lite.errors import HartError

LIMIT_S = 1.0  # a reader that computes for longer hangs; of the processor's time, since others use the machine, too
STOP_S = 20.0  # by the clock: one that waits hangs as well


@dataclass(frozen=True)
class Target:
    """`read` takes bytes from anywhere: it returns, or raises one of `typed`; anything else is a fault."""

    name: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    typed: tuple[type[Exception], ...] = (HartError,)


@dataclass
class Watch:
    """Inputs that broke a reader are saved in `folder` under their target's name;
    `python -m tests.reliability.bad_bytes TARGET FILE` reads one again."""

    folder: Path
    inputs: int = 0
    slowest_s: float = 0.0
    slowest_of: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)  # by class of error, "read" for none
    faults: list[str] = field(default_factory=list)

    def give(self, target: Target, data: bytes) -> None:
        self.inputs += 1
        began = time.process_time()
        try:
            with _stopped_after(STOP_S):
                target.read(data)
            outcome = "read"
        except target.typed as error:
            outcome = type(error).__name__
        except Exception as error:  # whatever else it is, it is what is looked for
            outcome = f"UNTYPED {type(error).__name__}"
            line = traceback.extract_tb(error.__traceback__)[-1]
            self._fault(target, data, f"{outcome} at {Path(line.filename).name}:{line.lineno}: {str(error)[:120]}")
        took = time.process_time() - began
        self.outcomes[outcome] += 1
        if took > self.slowest_s:
            self.slowest_s, self.slowest_of = took, target.name
        if took > LIMIT_S:
            self._fault(target, data, f"took {took:.1f} s")

    def _fault(self, target: Target, data: bytes, reason: str) -> None:
        folder = self.folder / target.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        self.faults.append(f"{path}: {reason}")


class HangError(Exception):
    """A reader that was stopped."""


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """In Python code; a decoder in C ends first, and its time is counted."""

    def stop(*_: object) -> None:
        raise HangError(f"stopped after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
