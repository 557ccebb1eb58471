"""Out of memory, for real: the address space of a process is bounded between what a step takes whole and what it takes
in halves. The gradient is to be, to the bit, the one that half the budget gives.

Every measurement is a process of its own, started anew as `python -m tests.reliability.memory`: a bound cannot be taken
back, and what the allocator keeps of one would change the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from hart_lite.training.step_trainer import StepTrainer
from tests.reliability.promise import Promise
from tests.reliability.trainers import RL, SFT, trainer

MIB = 2**20
BUDGETS = {"rl": ("tokens_per_pack", 4096), "sft": ("micro_batch_size", 32)}
STAGES = {"rl": RL | {"steps": 1, "questions_per_step": 24}, "sft": SFT | {"steps": 1, "batch_size": 32}}
# Blocks go back to the system when they are freed, so that the size of the process says what is in use.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    for kind, (key, budget) in BUDGETS.items():
        whole, half = _child(folder, kind, budget), _child(folder, kind, budget // 2)
        bound = (whole["needed"] + half["needed"]) // 2
        bounded = _child(folder, kind, budget, bound)
        same = "the same bits" if bounded["gradient"] == half["gradient"] else "another gradient"
        yield Promise(
            f"{kind}: a step that does not fit is the one of half the budget, to the bit, and says so",
            f"{whole['needed'] / MIB:.0f} MiB whole, {half['needed'] / MIB:.0f} in halves, {bound / MIB:.0f} allowed: "
            f"{key} {budget} -> {bounded['budget']}, {same}{'' if bounded['told'] else ', nothing said'}",
            bounded["budget"] == budget // 2
            and whole["budget"] == budget
            and bounded["gradient"] == half["gradient"] != whole["gradient"]
            and bounded["told"],
        )


def _child(folder: Path, kind: str, budget: int, bound: int | None = None) -> dict:
    command = [sys.executable, "-m", "tests.reliability.memory", str(folder), kind, str(budget), str(bound or 0)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"told": f"{BUDGETS[kind][0]}={budget // 2} in the recipe" in done.stderr}


def _measure(folder: Path, kind: str, budget: int, bound: int) -> dict:
    """One step, after one that warms up in small pieces. Bytes `needed` are those beyond what it began with."""
    key, _ = BUDGETS[kind]
    one = trainer(folder / f"{kind}-{budget}-{bound}", STAGES[kind] | {key: budget})
    one.budget.value = budget // 8
    _step(one)
    one.budget.value = budget
    one.model.zero_grad(set_to_none=True)
    before = _bytes("VmSize")
    if bound:
        resource.setrlimit(resource.RLIMIT_AS, (before + bound, resource.RLIM_INFINITY))
    _step(one)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    digest = hashlib.sha256()
    for parameter in one.model.parameters():
        if parameter.requires_grad:
            digest.update(parameter.grad.numpy().tobytes())
    return {"needed": _bytes("VmPeak") - before, "budget": one.budget.value, "gradient": digest.hexdigest()}


def _step(one: StepTrainer) -> None:
    """The gradients of the first step, without taking it."""
    torch.manual_seed(0)
    one.training_step(one.model, {})


def _bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    where, what, most, allowed = sys.argv[1:]
    print(json.dumps(_measure(Path(where), what, int(most), int(allowed))))
