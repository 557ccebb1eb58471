"""A polite stop: Ctrl-C, SIGTERM, or a limit on time end a run where `--resume` goes on without loss.

Outside of training a signal stops at once: whatever is written is whole, and what was not written is computed again.
In training it is noted, the step is finished, and a checkpoint saved. A second signal kills.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hart_lite.errors import HartError

TIME_UP = getattr(signal, "SIGALRM", None)  # Windows has no alarms
NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "asked to end (SIGTERM)", TIME_UP: "its time is up"}
ECHO = 5.0  # seconds in which a launcher repeats to its processes what they have been told already


class Stopped(KeyboardInterrupt):
    """The run was stopped and can go on. `code` is the exit code: 130 after Ctrl-C and 143 after SIGTERM, as a shell
    has it, and 124 when the time is up, as `timeout` has it."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 124 if number == TIME_UP else 128 + number


def resume_command(run: Path) -> str:
    return f"hart-lite train {shlex.quote(str(run / 'recipe.yaml'))} --resume"


class Stop:
    """Notices signals while it is entered, and the end of `max_minutes`.

    `highest` makes processes that share a run agree: it returns the highest of the numbers they give. They stop
    together, so with it a signal never stops one at once.
    """

    def __init__(
        self, run: Path, max_minutes: float | None = None, highest: Callable[[int], int] | None = None
    ) -> None:
        self.run, self.max_minutes, self.highest = run, max_minutes, highest
        self.number: int | None = None  # of the signal that was noticed
        self._at = 0.0
        self._noted_only = highest is not None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        in_main = threading.current_thread() is threading.main_thread()  # others can have no handlers
        if self.max_minutes is not None and (TIME_UP is None or not in_main):
            raise HartError("a limit on minutes needs alarms, which Windows, and a thread beside the main one, lack")
        for number in (signal.SIGINT, signal.SIGTERM, TIME_UP):
            if in_main and number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._notice)
        if self.max_minutes is not None:
            signal.setitimer(signal.ITIMER_REAL, max(60 * self.max_minutes, 1e-3))  # 0 would switch it off
        return self

    def __exit__(self, *error: object) -> None:
        if self.max_minutes is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self._at = number, time.monotonic()
            if not self._noted_only:
                raise self._stopped()
            # Not by the log: the signal may have come in the middle of a line of its.
            os.write(2, f"\n{NAMES[number]}: finishing the step and saving; a second signal kills\n".encode())
        elif number != TIME_UP and not (self.highest and time.monotonic() - self._at < ECHO):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _stopped(self) -> Stopped:
        begun = (self.run / "recipe.yaml").exists()
        way_on = f"to go on: {resume_command(self.run)}" if begun else "nothing was begun"
        return Stopped(self.number, f"stopped, {NAMES[self.number]}; {way_on}")

    def asked(self) -> bool:
        """Whether to stop. Processes that share a run have to ask together, and get one answer."""
        if self.highest:
            self.number = self.highest(self.number or 0) or None
        return self.number is not None

    def check(self) -> None:
        """Raise `Stopped` if it is asked for."""
        if self.asked():
            raise self._stopped()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Signals are noted inside, and acted upon at the end."""
        self._noted_only = True
        try:
            yield
        finally:
            self._noted_only = self.highest is not None
        self.check()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside `noting`, where there is nothing to finish: a signal raises `Stopped` again, one noted before too."""
        if self.highest is None:
            self._noted_only = False
        try:
            if self.highest is None:
                self.check()
            yield
        finally:
            self._noted_only = True
