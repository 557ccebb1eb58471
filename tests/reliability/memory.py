"""Out of memory, for real: the address space of a process is limited to less than a step needs whole, and more than it
needs in halves. The gradient must then be the one of half the budget, to the bit.

Every measurement is a process of its own, started anew as `python -m tests.reliability.memory`: what the allocator
keeps of one would change the next.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from hart_lite.training.step_trainer import StepTrainer
from tests.reliability.check import Check
from tests.reliability.process import status_bytes
from tests.reliability.trainers import RL, SFT, new_trainer

MIB = 2**20
BUDGETS = {"rl": ("tokens_per_pack", 4096), "sft": ("micro_batch_size", 32)}
STAGES = {"rl": RL | {"steps": 1, "questions_per_step": 24}, "sft": SFT | {"steps": 1, "batch_size": 32}}
# Blocks go back to the system when they are freed, so that the size of the process says what is in use.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    for kind, (key, budget) in BUDGETS.items():
        whole, half = _child(folder, kind, budget), _child(folder, kind, budget // 2)
        limit = (whole["needed"] + half["needed"]) // 2
        limited = _child(folder, kind, budget, limit)
        same = "the same bits" if limited["gradient"] == half["gradient"] else "another gradient"
        yield Check(
            f"{kind}: a step that does not fit is the one of half the budget, to the bit, and the log says so",
            f"{whole['needed'] / MIB:.0f} MiB whole, {half['needed'] / MIB:.0f} in halves, {limit / MIB:.0f} allowed: "
            f"{key} {budget} -> {limited['budget']}, {same}{'' if limited['told'] else ', nothing said'}",
            limited["budget"] == budget // 2
            and whole["budget"] == budget
            and limited["gradient"] == half["gradient"] != whole["gradient"]
            and limited["told"],
        )


def _child(folder: Path, kind: str, budget: int, limit: int | None = None) -> dict:
    command = [sys.executable, "-m", "tests.reliability.memory", str(folder), kind, str(budget), str(limit or 0)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"told": f"{BUDGETS[kind][0]}={budget // 2} in the recipe" in done.stderr}


def _measure(folder: Path, kind: str, budget: int, limit: int) -> dict:
    """One step, after one in small pieces that warms up. Bytes `needed` are those beyond what it began with."""
    key, _ = BUDGETS[kind]
    trainer = new_trainer(folder / f"{kind}-{budget}-{limit}", STAGES[kind] | {key: budget})
    trainer.budget.value = budget // 8
    _gradients(trainer)
    trainer.budget.value = budget
    trainer.model.zero_grad(set_to_none=True)
    before = status_bytes("VmSize")
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (before + limit, resource.RLIM_INFINITY))
    _gradients(trainer)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    digest = hashlib.sha256()
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            digest.update(parameter.grad.numpy().tobytes())
    needed = status_bytes("VmPeak") - before
    return {"needed": needed, "budget": trainer.budget.value, "gradient": digest.hexdigest()}


def _gradients(trainer: StepTrainer) -> None:
    """Of the first step, which is not taken."""
    torch.manual_seed(0)
    trainer.training_step(trainer.model, {})


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    folder, kind, budget, limit = sys.argv[1:]
    print(json.dumps(_measure(Path(folder), kind, int(budget), int(limit))))
