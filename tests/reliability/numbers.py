"""NaN and infinity: a step whose scores are not finite changes nothing and is counted; many in a row end the run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback

from hart_lite.errors import HartError
from hart_lite.training.step_guard import LIMIT
from tests.reliability.check import Check
from tests.reliability.trainers import RL, SFT, new_trainer, trained

BAD = {3, 4, 7, 9, 10, 11}  # of 12 steps
OVERFLOW = 1e8  # times an embedding: finite in float32, beyond the 65504 of float16
QUOTED = 16  # questions at most that the error names


class SpoilSteps(TrainerCallback):
    """Multiplies the embeddings of words by `factor` in the passes with gradient of some steps, counted from 1.

    `moved` says for each step whether it changed the adapters or the optimizer's moments; `skipped` counts the steps
    that training itself calls skipped.
    """

    def __init__(self, trainer: Trainer, steps: Collection[int], factor: float) -> None:
        self.trainer, self.steps, self.factor = trainer, steps, factor
        self.before: list[torch.Tensor] = []
        self.moved: dict[int, bool] = {}
        self.skipped = 0
        trainer.add_callback(self)
        trainer.model.get_input_embeddings().register_forward_hook(self._spoil)

    def _spoil(self, module, args, output):
        bad = torch.is_grad_enabled() and self.trainer.state.global_step + 1 in self.steps
        return output * self.factor if bad else output

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.before = trained(self.trainer)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        after = trained(self.trainer)
        same = len(after) == len(self.before) and all(map(torch.equal, after, self.before))
        self.moved[state.global_step] = not same

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.skipped += int((logs or {}).get("skipped", 0))


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    for name, stage in (("RL", RL), ("SFT", SFT)):
        for factor in (math.nan,) if quick else (math.nan, math.inf):
            yield _skipped(folder / f"{name}-{factor}", f"{name}: a step of {factor}", stage, factor)
        yield _skipped(
            folder / f"{name}-float16", f"{name} in float16: a step that overflows", stage, OVERFLOW, "float16"
        )
        yield _stopped(folder / f"{name}-stopped", name, stage)


def _skipped(folder: Path, what: str, stage: dict, factor: float, dtype: str = "float32") -> Check:
    trainer = new_trainer(folder, stage, dtype=dtype)
    spoil = SpoilSteps(trainer, BAD, factor)
    trainer.train()
    held = [step for step in BAD if not spoil.moved[step]]
    others = [step for step, moved in spoil.moved.items() if moved and step not in BAD]
    finite = all(bool(t.isfinite().all()) for t in trained(trainer))
    return Check(
        f"{what} moves neither adapters nor moments, and is counted",
        f"{len(held)} of {len(BAD)} steps moved nothing, {spoil.skipped} counted; {len(others)} of "
        f"{len(spoil.moved) - len(BAD)} others moved{'' if finite else '; weights are not finite'}",
        len(held) == len(BAD) == spoil.skipped and bool(others) and finite,
    )


def _stopped(folder: Path, name: str, stage: dict) -> Check:
    trainer = new_trainer(folder, stage)
    spoil = SpoilSteps(trainer, range(3, 99), math.nan)
    message = "it ran to its end"
    try:
        trainer.train()
    except HartError as error:
        message = str(error)
    ids = {i for step in trainer.guard.bad.values() for i in step}
    named = sum(repr(i) in message for i in ids)
    return Check(
        f"{name}: {LIMIT} such steps in a row end the run, and the error names their questions (at most {QUOTED})",
        f"ended after step {trainer.state.global_step}, bad from step 3; {named} of {len(ids)} questions named",
        trainer.state.global_step == 2 + LIMIT == spoil.skipped + 2 and 0 < min(named, QUOTED) == min(len(ids), QUOTED),
    )
