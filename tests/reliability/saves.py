"""A save is whole or not there: what reaches the disk in which order, damaged checkpoints, full disks."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from hart_lite.runs.checkpoints import damage, newest_checkpoint
from hart_lite.utils.files import move_whole, write_whole
from tests.reliability.check import Check
from tests.reliability.runs import begin, differences, exit_code, finish, printed, summary

DISK = "48m"  # a run takes 16
WRITES = (  # (phase, at which of its times the disk is full when it begins)
    *(("tracking", 1), ("evaluation", 1), ("metrics", 1), ("rollout log", 2), ("checkpoint", 3), ("adapter", 1)),
    *(("locate", 1), ("summary", 1), ("report", 1)),
)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(path.name).randrange(len(data))] ^= 1
    path.write_bytes(data)


def delete(path: Path) -> None:
    path.unlink()


HARMS = (truncate, empty, flip_bit, delete)


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    yield _order(folder / "folder")
    unbroken = finish(folder / "unbroken")
    yield _every_file(folder / "damaged", unbroken)
    with ThreadPoolExecutor(2) as pool:
        harms = HARMS[:1] if quick else HARMS
        results = list(pool.map(lambda harm: _goes_on(folder / harm.__name__, unbroken, harm), harms))
        found = [difference for one in results for difference in one]
        yield Check(
            "newest checkpoint damaged: the run goes on from the one before and ends like the unbroken one",
            f"{len(results)} runs: {summary(found)}",
            not found,
        )
        writes = WRITES[4:5] if quick else WRITES
        full = list(pool.map(lambda write: _full(folder / f"full-{write[0]}", unbroken, *write), writes))
    found = [difference for one, _ in full for difference in one]
    names = ", ".join(name for name, _ in writes)
    yield Check(
        "disk full at any write: the run stops with the reason and how to go on, its checkpoints whole; it goes on "
        "once there is room",
        f"{len(writes)} runs ({names}; {' and '.join(sorted({how for _, how in full}))}): {summary(found)}",
        not found,
    )


def _order(folder: Path) -> Check:
    """A name must not be on the disk before what it names, or a machine that stops leaves an empty file behind it."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number: int) -> None:
        events.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def noted_replace(source: Path, target: Path) -> None:
        events.append(f"rename {Path(source).name} {Path(target).name}")
        replace(source, target)

    partial = folder / "b.part"
    partial.mkdir(parents=True)
    (partial / "c").write_text("x")
    with mock.patch.object(os, "fsync", noted_fsync), mock.patch.object(os, "replace", noted_replace):
        write_whole(folder / "a", "x")
        move_whole(partial, folder / "b")
    expected = [
        *("fsync a.part", "rename a.part a", "fsync folder"),
        *("fsync c", "fsync b.part", "rename b.part b", "fsync folder"),
    ]
    return Check(
        "files and folders are on the disk before they get their names, and the names before anything else is done",
        " > ".join(events),
        events == expected,
    )


def _every_file(folder: Path, unbroken: Path) -> Check:
    """Each file of the newest checkpoint of each stage, harmed in each way. Unharmed, it has to be taken."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("hart_lite.runs.checkpoints")
    logger.addHandler(handler)
    tried, failed = 0, []
    for stage in sorted((unbroken / "stages").iterdir()):
        [before, newest] = sorted(stage.glob("checkpoint-*"))
        if newest_checkpoint(stage) != newest:
            failed.append(f"{stage.name} unharmed")
        for path in sorted(p for p in newest.rglob("*") if p.is_file()):
            for harm in HARMS:
                copy = folder / stage.name
                for checkpoint in (before, newest):
                    shutil.copytree(checkpoint, copy / checkpoint.name)
                harm(copy / path.relative_to(stage))
                lines.clear()
                fell_back = newest_checkpoint(copy) == copy / before.name
                named = len(lines) == 1 and f"{newest.name} is passed by: " in lines[0]
                tried += 1
                if not fell_back or not named:
                    failed.append(f"{stage.name}/{path.name} {harm.__name__}")
                shutil.rmtree(copy)
    logger.removeHandler(handler)
    return Check(
        "each file of the newest checkpoint truncated, emptied, bit-flipped, deleted: the log says so, and the one "
        "before is taken",
        f"{tried} damages, {len(failed)} not noticed {', '.join(failed[:3])}".strip(),
        tried > 0 and not failed,
    )


def _goes_on(folder: Path, unbroken: Path, harm: Callable[[Path], None]) -> list[str]:
    """The run as a kill in the first stage's last save would have left it, with the checkpoint harmed."""
    run = folder / "run"
    shutil.copytree(unbroken, run)
    for pattern in ("adapter", "stages/1-rl/adapter", "stages/2-sft", "stages/3-sft", "summary.*", "report.html"):
        remove(run, pattern)
    for pattern in ("*/after-*", "*/during-2*", "*/during-3*"):
        remove(run, pattern)
    harm(run / "stages" / "1-rl" / "checkpoint-5" / "adapter_model.safetensors")
    found = differences(finish(folder), unbroken)
    if "checkpoint-5 is passed by: adapter_model.safetensors is" not in printed(folder):
        found.append("nothing said")
    return [f"{harm.__name__}: {difference}" for difference in found]


def remove(run: Path, pattern: str) -> None:
    """Raises `RuntimeError` where there is nothing: then a run has another layout than this check knows."""
    found = list(run.glob(pattern))
    if not found:
        raise RuntimeError(f"{run} holds no {pattern}")
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _full(folder: Path, unbroken: Path, write: str, number: int) -> tuple[list[str], str]:
    """(what went wrong, how the disk was full)."""
    run = folder / "run"
    run.mkdir(parents=True)
    with small_disk(run) as how:
        (folder / "notes").mkdir()
        (folder / "notes" / "fill").write_text("\t".join((write, str(number), how, str(run))))
        code = exit_code(begin(folder))
        found = [] if code == 1 else [f"exit code {code}"]
        words = printed(folder)
        if not re.search("No space left on device|os error 28|File too large", words):
            found.append("no reason given")
        if "--resume" not in words or "Traceback" in words:
            found.append("not said how to go on")
        found += [f"{path} harmed" for path in run.glob("stages/*/checkpoint-*[0-9]") if damage(path)]
        (run / "ballast").unlink(missing_ok=True)
        found += differences(finish(folder), unbroken)
    return [f"{write}: {difference}" for difference in found], how


@contextmanager
def small_disk(place: Path) -> Iterator[str]:
    """A disk of its own at `place`, to be filled: `tmpfs`, or `limit` where this user may not mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        yield "limit"
        return
    try:
        yield "tmpfs"
    finally:
        subprocess.run(["umount", place], check=True)
