"""Runs that are asked to stop, a second process in one run directory, and several processes that end together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hart_lite.runs.checkpoints import damage, newest_checkpoint
from tests.reliability.check import Check
from tests.reliability.runs import begin, differences, exit_code, finish, metrics, printed, reaches, summary

INT, TERM = signal.SIGINT, signal.SIGTERM
SIGNALS = (  # each chain is one run: (signal, phase, at which of its times since the launch), in the order of the run
    ((TERM, "evaluation", 1), (INT, "rollout", 2), (TERM, "evaluation", 1), (INT, "locate", 1), (TERM, "SFT", 3)),
    ((INT, "tracking", 1), (TERM, "update", 2), (INT, "checkpoint", 1), (TERM, "adapter", 1), (INT, "SFT", 2)),
)
LONGEST = 60.0  # seconds in which a process notices that another is gone


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    began = time.monotonic()
    unbroken = finish(folder / "unbroken")
    whole = time.monotonic() - began
    chains = [SIGNALS[0][1:2]] if quick else SIGNALS
    with ThreadPoolExecutor(2) as pool:
        work = [folder / f"signals-{n}" for n in range(len(chains))]
        results = list(pool.map(lambda place, chain: _stopped(place, chain, unbroken), work, chains))
    found = [difference for one, _ in results for difference in one]
    seconds = [each for _, one in results for each in one]
    yield Check(
        "SIGINT, SIGTERM: saved, exit code 130 or 143, printed how to go on; resumed, it ends like the unbroken run",
        f"{len(seconds)} stops, {max(seconds):.1f} s at most: {summary(found)}",
        not found,
    )
    if not quick:
        yield _limited(folder / "minutes", unbroken, whole / 3)
    yield _twice(folder / "twice", unbroken)
    yield _held(folder / "held", unbroken)
    if not quick:
        yield from _together(folder)


def _stopped(folder: Path, chain: tuple, unbroken: Path) -> tuple[list[str], list[float]]:
    found, seconds = [], []
    for number, wanted, count in chain:
        process = begin(folder)
        if not reaches(wanted, folder, process, count):
            found.append(f"{wanted} was never reached")
        process.send_signal(number)
        began = time.monotonic()
        code = exit_code(process)
        seconds.append(time.monotonic() - began)
        found += [f"{wanted}: {problem}" for problem in _left(folder, code, 128 + number)]
    return found + differences(finish(folder), unbroken), seconds


def _left(folder: Path, code: int, expected: int) -> list[str]:
    """What a stop should have left otherwise."""
    found = [] if code == expected else [f"exit code {code}"]
    if code and not re.search(r"to go on: hart-lite train run/recipe.yaml --resume\n$", printed(folder)):
        found.append("the last line does not say how to go on")
    found += [f"{path.name} left" for path in (folder / "run").rglob("*") if path.suffix in (".part", ".lock")]
    rows = metrics(folder / "run") if (folder / "run" / "metrics.jsonl").exists() else []
    if rows:
        stage = folder / "run" / "stages" / rows[-1]["stage"]
        last = stage / f"checkpoint-{rows[-1]['step']}"
        if damage(last) and not (stage / "adapter").exists():
            found.append(f"{last.name} missing")
    return found


def _limited(folder: Path, unbroken: Path, seconds: float) -> Check:
    """`--max-minutes` until it is finished, with a launch for every few steps."""
    found, launches, code = [], 0, 124
    while code == 124 and launches < 20:
        code = exit_code(begin(folder, "--max-minutes", str(seconds / 60)))
        launches += 1
        found += _left(folder, code, 124 if code else 0)
    if code == 124:  # a slow machine
        finish(folder)
    found += differences(folder / "run", unbroken)
    return Check(
        "--max-minutes, launch after launch: saved, exit code 124, and at last the run ends like the unbroken one",
        f"{launches} launches of {seconds:.1f} s: {summary(found)}",
        not found and launches > 1,
    )


def _twice(folder: Path, unbroken: Path) -> Check:
    process = begin(folder)
    reaches("rollout", folder, process, 3)
    process.send_signal(TERM)
    time.sleep(0.05)
    process.send_signal(TERM)
    began = time.monotonic()
    code = exit_code(process)
    seconds = time.monotonic() - began
    found = differences(finish(folder), unbroken)
    return Check(
        "a second signal ends the run within 2 s; resumed, it ends like the unbroken run",
        f"{seconds:.2f} s, exit code {code}: {summary(found)}",
        not found and code == -TERM and seconds < 2,
    )


def _held(folder: Path, unbroken: Path) -> Check:
    """A second process is refused, and the lock of a killed one holds nobody up."""
    first = begin(folder)
    reaches("rollout", folder, first)
    second = begin(folder)  # with the notes of the first
    code = exit_code(second)
    named = f"process {first.pid} on {socket.gethostname()} is training there" in printed(folder)
    first.kill()
    first.wait()
    found = differences(finish(folder), unbroken)
    return Check(
        "a second process in a run directory is refused with the number of the first; a dead one locks nothing",
        f"exit code {code}, {'named' if named else 'not named'}: {summary(found)}",
        code == 1 and named and not found,
    )


# -- several processes ---------------------------------------------------------------------------------------------


def _together(folder: Path) -> Iterator[Check]:
    unbroken = finish(folder / "two", processes=2)
    place = folder / "launched"
    launcher = begin(place, processes=2)
    reaches("update", place, launcher, 3)
    os.kill(_ranks(launcher.pid)[1], signal.SIGKILL)
    seconds, _ = _wait(launcher)
    found = differences(finish(place, processes=2), unbroken)
    yield Check(
        f"one of two processes killed: the other ends within {LONGEST:.0f} s; resumed, the run ends like the unbroken",
        f"{seconds:.1f} s under torchrun: {summary(found)}",
        seconds < LONGEST and not found,
    )
    place = folder / "by-hand"
    first, second = _by_hand(place)
    reaches("update", place, first, 2)
    second.kill()
    seconds, code = _wait(first)
    second.wait()
    reason = "another process of this run has ended" in printed(place)
    whole = newest_checkpoint(place / "run" / "stages" / "1-rl") is not None
    yield Check(
        "without a launcher, the other process says why it ends",
        f"{seconds:.1f} s, exit code {code}, {'said' if reason else 'not said'}",
        seconds < LONGEST and code == 1 and reason and whole,
    )
    place = folder / "asked"
    launcher = begin(place, processes=2)
    reaches("rollout", place, launcher, 4)
    launcher.send_signal(TERM)
    seconds, _ = _wait(launcher)
    words = printed(place)
    steps = len(metrics(place / "run"))
    at_once = words.count("to go on: hart-lite train run/recipe.yaml --resume") == 2
    saved = newest_checkpoint(place / "run" / "stages" / "1-rl").name == f"checkpoint-{steps}"
    found = differences(finish(place, processes=2), unbroken)
    yield Check(
        "SIGTERM to the launcher: both processes stop after the same step, and it is saved",
        f"{seconds:.1f} s, step {steps}: {summary(found)}",
        at_once and saved and not found,
    )


def _ranks(launcher: int) -> list[int]:
    """The processes that a launcher started, by rank."""
    children = map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())
    ranks = {}
    for child in children:
        found = re.search(rb"\0RANK=(\d+)\0", b"\0" + Path(f"/proc/{child}/environ").read_bytes())
        if found:
            ranks[int(found[1])] = child
    return [ranks[rank] for rank in sorted(ranks)]


def _wait(process: subprocess.Popen) -> tuple[float, int]:
    """(seconds until it has ended, its exit code)."""
    began = time.monotonic()
    code = exit_code(process)
    return time.monotonic() - began, code


def _by_hand(folder: Path) -> tuple[subprocess.Popen, subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    first, second = (begin(folder, RANK=str(n), LOCAL_RANK=str(n), **shared) for n in range(2))
    return first, second
