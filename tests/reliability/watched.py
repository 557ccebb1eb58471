"""`hart-lite`, with what it is doing written beside it: `python -m tests.reliability.watched NOTES WORDS ..`.

NOTES/now holds the name of the phase a run is in, NOTES/log a line for each that ended: name and seconds. A process
outside reads them to choose its moment; the run itself is as it would be without.

NOTES/fill, where it exists, holds the name of a phase, a number, how, and a folder: when the phase is entered for that
time, the disk of the folder is filled, or if how is `limit`, the system is told to let this process write no file.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
import time
from pathlib import Path

from hart_lite.cli import main as cli

ROOM = 64  # bytes of NOTES/now


class Notes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = os.open(folder / "now", os.O_RDWR | os.O_CREAT)
        self.log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.limited = False  # then not even this can write
        self.inside: list[str] = []
        self.entered: dict[str, int] = {}

    def watch(self, owner: object, name: str, phase: str) -> None:
        """Have `owner.name` note `phase` while it runs."""
        real = getattr(owner, name)

        @functools.wraps(real)
        def noted(*args, **kwargs):
            self._enter(phase)
            began = time.monotonic()
            try:
                return real(*args, **kwargs)
            finally:
                self.inside.pop()
                self._write(f"{phase}\t{time.monotonic() - began}\n")

        setattr(owner, name, noted)

    def _enter(self, phase: str) -> None:
        self.inside.append(phase)
        self.entered[phase] = self.entered.get(phase, 0) + 1
        self._write()
        order = self.folder / "fill"
        if order.exists():
            wanted, number, how, place = order.read_text().split("\t")
            if phase == wanted and self.entered[phase] == int(number):
                order.unlink()
                fill(how, Path(place))
                self.limited = how == "limit"

    def _write(self, line: str = "") -> None:
        if self.limited:
            return
        phase = self.inside[-1] if self.inside else "between"
        count = self.entered.get(phase, 0)
        os.pwrite(self.now, f"{phase}\t{count}".encode().ljust(ROOM), 0)
        os.write(self.log, line.encode())


def fill(how: str, place: Path) -> None:
    """Leave no room on the disk of `place`, or no right to write files."""
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return
    with (place / "ballast").open("wb", buffering=0) as file:
        block = bytes(1 << 16)
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
    notes = Notes(Path(sys.argv[1]))
    from hart_lite.utils.libraries import quiet_libraries

    quiet_libraries()
    from hart_lite.training import (
        callbacks,
        checkpointing,
        rl_trainer,
        sample_tracking,
        sft_trainer,
        step_trainer,
        train,
    )

    for owner, name, phase in (
        (rl_trainer.RLTrainer, "rollout", "rollout"),
        (rl_trainer.RLTrainer, "accumulate", "update"),
        (sft_trainer.SFTStageTrainer, "training_step", "SFT"),
        (step_trainer.StepTrainer, "save_model", "save"),
        (checkpointing.SealCheckpoints, "on_save", "save"),
        (callbacks.MetricsFile, "on_log", "metrics"),
        (rl_trainer, "save_rollouts", "pictures"),
        (train, "save_adapter", "adapter"),
        (train, "locate_once", "locate"),
        (train, "evaluate_once", "evaluation"),
        (sample_tracking.Progress, "record", "watching"),
        (train, "summarise", "summary"),
        (train, "_report", "report"),
    ):
        notes.watch(owner, name, phase)
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
