"""A long run does not grow: memory, open files, time of a step and size of a checkpoint over 2,000 steps of RL on the
toy data, with evaluations, checkpoints, logged rollouts and tracked questions in between.

A child process runs `hart-lite train`; whenever its metrics file has grown, /proc says what the process holds. Slopes
are Theil-Sen's, the median over all pairs of steps, which a pause of the machine does not tilt. The time of a step is
that of the processor, since others may use the machine, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from tests.reliability.check import Check

STEPS, QUICK_STEPS = 2000, 200
WARM_UP = 4  # the first of so many parts of the run does not count: caches fill, the allocator settles
SPANS = 60  # for the time of a step: the processor's clock ticks only a hundred times a second
POLL = 0.02  # seconds
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """What the process held once it had written `step` rows."""

    step: int
    resident: float  # bytes
    files: int
    seconds: float  # of the processor, since the process began


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    steps = QUICK_STEPS if quick else STEPS
    samples = watch(recipe(folder, steps), folder)
    if samples[-1].step != steps:
        raise RuntimeError(f"the run ended after {samples[-1].step} of {steps} steps: see {folder / 'log.txt'}")
    yield from growth([sample for sample in samples if sample.step > steps / WARM_UP], steps)
    yield _checkpoints(folder / "run", steps)


def recipe(folder: Path, steps: int) -> Path:
    """Few samples and one question a step. The learning rate is so small that the last steps have as much to do as the
    first: a policy that learns would have other groups to train on."""
    raw = {
        "name": "long",
        "output": str(folder / "run"),
        "model": {"dtype": "float32", "device": "cpu"},
        "pixels": {"full": 12544, "crop": 4704, "min": 784},
        "data": {"toy": {"scenes": 24, "eval_scenes": 4}},
        "rollout": {"samples": 4, "max_tokens_locate": 24, "max_tokens_answer": 8, "resample_flat_groups": 1},
        "stages": [
            {"kind": "rl", "steps": steps, "questions_per_step": 1, "lr": 1e-6}
            | {"save_every": max(steps // 20, 1), "log_rollouts_every": max(steps // 20, 1)}
        ],
        "evaluate": {"every": max(steps // 8, 1)},
    }
    path = folder / "long.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def watch(path: Path, folder: Path) -> list[Sample]:
    command = [sys.executable, "-m", "hart_lite.cli.main", "train", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    metrics, samples, rows, read = folder / "run" / "metrics.jsonl", [], 0, 0
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while child.poll() is None:
                size = metrics.stat().st_size if metrics.exists() else 0
                if size > read:
                    with metrics.open("rb") as file:
                        file.seek(read)
                        new = file.read()
                    rows, read = rows + new.count(b"\n"), read + len(new)
                    samples.append(_sample(child.pid, rows))
                time.sleep(POLL)
        finally:
            child.kill()
            child.wait()
    if child.returncode or not samples:
        raise RuntimeError(f"the run failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    return samples


def _sample(pid: int, step: int) -> Sample:
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    user, system = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return Sample(step, resident, len(list((process / "fd").iterdir())), (int(user) + int(system)) / TICKS)


def growth(samples: list[Sample], steps: int) -> Iterator[Check]:
    """The samples after the warm-up, of a run of so many steps."""
    per = min(steps, 1000)
    at = np.array([sample.step for sample in samples])
    resident = np.array([sample.resident for sample in samples]) / MIB
    files = np.array([sample.files for sample in samples])
    more, level = per * slope(at, resident), float(np.median(resident))
    yield Check(
        f"{steps:,} steps: resident memory flat, under 20 MiB and 5 % more in {per:,} steps",
        f"{more:+.2f} MiB per {per:,} steps at {level:,.0f} MiB",
        more < min(20.0, 0.05 * level),
    )
    more = per * slope(at, files)
    yield Check(
        f"{steps:,} steps: open files flat, slope 0",
        f"{more:+.2f} per {per:,} steps at {np.median(files):.0f}",
        abs(more) < 1e-9,
    )
    ends = samples[:: max(len(samples) // SPANS, 1)]
    at = np.array([sample.step for sample in ends])
    seconds = np.diff([sample.seconds for sample in ends]) / np.diff(at)
    slower, usual = per * slope(at[1:], seconds), float(np.median(seconds))
    yield Check(
        f"{steps:,} steps: time of a step flat, under 5 % more in {per:,} steps",
        f"{100 * slower / usual:+.2f} % per {per:,} steps at {1000 * usual:.0f} ms of the processor",
        slower < 0.05 * usual,
    )


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Theil-Sen."""
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def _checkpoints(run: Path, steps: int) -> Check:
    """The trainer's state must not hold all that was logged so far."""
    states = sorted(run.glob("stages/1-rl/checkpoint-*/trainer_state.json"))
    largest = max(state.stat().st_size for state in states)
    return Check(
        f"the state in a checkpoint stays under 4 KiB after {steps:,} steps", f"{largest:,} bytes", largest < 4096
    )
