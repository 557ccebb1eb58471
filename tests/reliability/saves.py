"""A save is whole or not there: damaged checkpoints are passed by, and a full disk costs nothing that was saved."""

from __future__ import annotations

import logging
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from hart_lite.runs.checkpoints import damage, newest_checkpoint
from tests.reliability.promise import Promise
from tests.reliability.runs import begin, differences, ended, finish, kept, said

DISK = "48m"  # a run takes 16
WRITES = (  # (what is written, at which of its times the disk is full)
    *(("watching", 1), ("evaluation", 1), ("metrics", 1), ("pictures", 2), ("save", 3), ("adapter", 1)),
    *(("locate", 1), ("summary", 1), ("report", 1)),
)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(path.name).randrange(len(data))] ^= 1
    path.write_bytes(data)


def deleted(path: Path) -> None:
    path.unlink()


HARMS = (truncated, emptied, flipped, deleted)


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    unbroken = finish(folder / "unbroken")
    yield _every_file(folder / "damaged", unbroken)
    with ThreadPoolExecutor(2) as pool:
        harms = HARMS[:1] if quick else HARMS
        results = list(pool.map(lambda harm: _goes_on(folder / harm.__name__, unbroken, harm), harms))
        found = [difference for one in results for difference in one]
        yield Promise(
            "newest checkpoint damaged: the run goes on from the one before and ends like the unbroken one",
            f"{len(results)} runs: {kept(found)}",
            not found,
        )
        writes = WRITES[4:5] if quick else WRITES
        full = list(pool.map(lambda write: _full(folder / f"full-{write[0]}", unbroken, *write), writes))
    found = [difference for one, _ in full for difference in one]
    hows = {how for _, how in full}
    names = ", ".join(name for name, _ in writes)
    yield Promise(
        "disk full at any write: stops with the reason and how to go on, checkpoints whole; goes on once there is room",
        f"{len(writes)} runs ({names}; {' and '.join(sorted(hows))}): {kept(found)}",
        not found,
    )


def _every_file(folder: Path, unbroken: Path) -> Promise:
    """Each file of the newest checkpoint of each stage, harmed in each way."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("hart_lite.runs.checkpoints")
    logger.addHandler(handler)
    tried, failed = 0, []
    for stage in sorted((unbroken / "stages").iterdir()):
        [before, newest] = sorted(stage.glob("checkpoint-*"))
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
    return Promise(
        "each file of the newest checkpoint truncated, emptied, bit-flipped, deleted: said, and passed by",
        f"{tried} damages, {len(failed)} not noticed {', '.join(failed[:3])}".strip(),
        not failed,
    )


def _goes_on(folder: Path, unbroken: Path, harm: Callable[[Path], None]) -> list[str]:
    """The run as a kill in the first stage's last save would have left it, the checkpoint harmed."""
    run = folder / "run"
    shutil.copytree(unbroken, run)
    for name in ("adapter", "stages/1-rl/adapter", "stages/2-sft", "stages/3-sft"):
        shutil.rmtree(run / name)
    for pattern in ("summary.*", "report.html", "*/after-*", "*/during-2*", "*/during-3*"):
        for path in run.glob(pattern):
            path.unlink()
    harm(run / "stages" / "1-rl" / "checkpoint-5" / "adapter_model.safetensors")
    found = differences(finish(folder), unbroken)
    if "checkpoint-5 is passed by: adapter_model.safetensors is" not in said(folder):
        found.append("nothing said")
    return [f"{harm.__name__}: {difference}" for difference in found]


def _full(folder: Path, unbroken: Path, write: str, number: int) -> tuple[list[str], str]:
    """(what was not as promised, how the disk was full)."""
    run = folder / "run"
    run.mkdir(parents=True)
    with small_disk(run) as how:
        (folder / "notes").mkdir()
        (folder / "notes" / "fill").write_text("\t".join((write, str(number), how, str(run))))
        code = ended(begin(folder))
        found = [] if code == 1 else [f"exit code {code}"]
        words = said(folder)
        if not any(reason in words for reason in ("No space left on device", "os error 28", "File too large")):
            found.append("no reason given")
        if "--resume" not in words or "Traceback" in words:
            found.append("no way on")
        found += [f"{path} harmed" for path in run.glob("stages/*/checkpoint-*[0-9]") if damage(path)]
        (run / "ballast").unlink(missing_ok=True)
        found += differences(finish(folder), unbroken)
    return [f"{write}: {difference}" for difference in found], how


@contextmanager
def small_disk(place: Path) -> Iterator[str]:
    """A disk of its own at `place`, to be filled; `limit` where nobody but root may mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        yield "limit"
        return
    try:
        yield "tmpfs"
    finally:
        subprocess.run(["umount", place], check=True)
