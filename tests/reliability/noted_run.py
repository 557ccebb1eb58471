"""`hart-lite`, with the phases that it logs noted in files: `python -m tests.reliability.noted_run NOTES WORDS ..`.

NOTES/now holds the phase that the run is in and how often it has entered it, NOTES/log one line for each phase: its
name and when it began. Another process reads them to choose its moment.

NOTES/fill, where it exists, holds the name of a phase, a number, `tmpfs` or `limit`, and a folder. When the run enters
the phase for that time, the disk of the folder is filled, or the process loses the right to write files.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from hart_lite.cli import main as cli
from hart_lite.utils import phase

NOTE_BYTES = 64  # of NOTES/now, so that each note covers the one before it
END = "end"  # in NOTES/log, when the last phase has ended


class Notes(logging.Handler):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.now = os.open(folder / "now", os.O_RDWR | os.O_CREAT)
        self.began = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.entered: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        name = record.getMessage()
        self.entered[name] += 1
        os.pwrite(self.now, f"{name}\t{self.entered[name]}".encode().ljust(NOTE_BYTES), 0)
        os.write(self.began, f"{name}\t{time.monotonic()}\n".encode())
        order = self.folder / "fill"
        if order.exists():
            wanted, number, how, place = order.read_text().split("\t")
            if (name, self.entered[name]) == (wanted, int(number)):
                order.unlink()
                self._fill(how, Path(place))

    def _fill(self, how: str, place: Path) -> None:
        if how == "limit":
            phase.log.removeHandler(self)  # its notes are files, too
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
    phase.log.addHandler(Notes(Path(sys.argv[1])))
    phase.log.setLevel(logging.DEBUG)
    phase.log.propagate = False  # the command line would print every phase
    code = cli.main(sys.argv[2:])
    phase.begin_phase(END)
    return code


if __name__ == "__main__":
    sys.exit(main())
