"""The page of a run that goes on: written anew each time that the run has got further."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hart_lite.report.reader import Run, read_run
from hart_lite.report.run_report import write_report
from hart_lite.runs.layout import ADAPTER, EVALUATION, METRICS, TRACKED
from hart_lite.runs.time_left import duration


def watch(run: str | Path, every: int, pause: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Yields a line to print for each page that it wrote; ends with the page of the finished run. Looks every so many
    seconds. Raises `DataError` for a folder that holds no run."""
    folder, last = Path(run), None
    while True:
        state = _state(folder)
        if state != last:
            found = read_run(folder)
            page = write_report(folder, refresh=0 if found.finished else every)
            yield f"{page}: {_progress(found)}"
            if found.finished:
                return
            last = state
        pause(every)


def _state(folder: Path) -> list[tuple[str, int]]:
    """Changes with what the page shows."""
    paths = [
        folder / METRICS,
        folder / ADAPTER,
        *(folder / EVALUATION).glob("*/summary.json"),
        *(folder / TRACKED).glob("*"),
    ]
    return sorted((str(path), path.stat().st_mtime_ns) for path in paths if path.exists())


def _progress(run: Run) -> str:
    if run.finished:
        return "finished"
    begun = [stage for stage in run.stages if stage.rows]
    if not begun:
        return "before its first step"
    left = run.seconds_left
    about = f", about {duration(left)} left in the whole run" if left else ""
    return f"{begun[-1].name}, step {begun[-1].done:,} of {begun[-1].steps:,}{about}"
