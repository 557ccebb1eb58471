"""What is not a number: steps whose scores turn NaN or infinite change nothing, are counted, and end a run that makes
nothing else."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback

from hart_lite.errors import HartError
from hart_lite.training.step_guard import LIMIT
from tests.reliability.promise import Promise
from tests.reliability.trainers import RL, SFT, trained, trainer

BAD = {3, 4, 7, 9, 10, 11}  # of 12 steps


class Spoil(TrainerCallback):
    """Multiplies the embeddings of words by `value` in the passes with gradient of some steps, which count from 1.

    Notes what is trained and the moments before each step and after it, and how many steps were called skipped.
    """

    def __init__(self, of: Trainer, steps: Collection[int], value: float) -> None:
        self.of, self.steps, self.value = of, steps, value
        self.before: list[torch.Tensor] = []
        self.moved: dict[int, bool] = {}
        self.skipped = 0
        of.add_callback(self)
        of.model.get_input_embeddings().register_forward_hook(self._spoil)

    def _spoil(self, module, args, output):
        bad = torch.is_grad_enabled() and self.of.state.global_step + 1 in self.steps
        return output * self.value if bad else output

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.before = trained(self.of)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        after = trained(self.of)
        alike = len(after) == len(self.before) and all(map(torch.equal, after, self.before))
        self.moved[state.global_step] = not alike

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.skipped += int((logs or {}).get("skipped", 0))


def promises(folder: Path, quick: bool) -> Iterator[Promise]:
    for name, stage in (("RL", RL), ("SFT", SFT)):
        for value in (math.nan,) if quick else (math.nan, math.inf):
            yield _skipped(folder / f"{name}-{value}", name, stage, value)
        yield _stopped(folder / f"{name}-stopped", name, stage)


def _skipped(folder: Path, name: str, stage: dict, value: float) -> Promise:
    one = trainer(folder, stage)
    spoil = Spoil(one, BAD, value)
    one.train()
    held = [step for step in BAD if not spoil.moved[step]]
    others = [step for step, moved in spoil.moved.items() if moved and step not in BAD]
    finite = all(bool(t.isfinite().all()) for t in trained(one))
    return Promise(
        f"{name}: a step of {value} moves neither weights nor moments, and is counted",
        f"{len(held)} of {len(BAD)} steps moved nothing, {spoil.skipped} counted; {len(others)} of "
        f"{len(spoil.moved) - len(BAD)} others moved{'' if finite else '; weights are not finite'}",
        len(held) == len(BAD) == spoil.skipped and bool(others) and finite,
    )


def _stopped(folder: Path, name: str, stage: dict) -> Promise:
    one = trainer(folder, stage)
    spoil = Spoil(one, range(3, 99), math.nan)
    said = "it ran to its end"
    try:
        one.train()
    except HartError as error:
        said = str(error)
    ids = {i for step in one.guard.bad.values() for i in step}
    named = sum(repr(i) in said for i in ids)
    return Promise(
        f"{name}: {LIMIT} such steps in a row end the run, with their questions named",
        f"ended after step {one.state.global_step}, bad from step 3; {named} of {len(ids)} questions named",
        one.state.global_step == 2 + LIMIT == spoil.skipped + 2 and 0 < min(named, 16) == min(len(ids), 16),
    )
