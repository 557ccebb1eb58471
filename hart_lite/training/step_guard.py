"""What both trainers do about steps that went wrong, and what of it a resumed run has to know.

A step whose loss or gradient is not finite changes nothing: neither weights nor the optimizer's moments. The learning
rate goes on as if it had, since its course is one of the recipe's steps. A few are usual in float16; `LIMIT` in a row
are a fault, and end the run with their questions named.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hart_lite.errors import HartError
from hart_lite.models.finite import check_finite
from hart_lite.models.oom import Budget
from hart_lite.training.loss_scale import LossScale
from hart_lite.utils.text import shown

log = logging.getLogger(__name__)
LIMIT = 5  # steps in a row
NAMED = 16  # questions in the message


class StepGuardState(TrainerCallback, ExportableState):
    """Travels in the checkpoints (trainer_state.json): budgets as they were halved, the scale of the loss, and the bad
    steps just before."""

    def __init__(self, budgets: Sequence[Budget], scale: LossScale) -> None:
        self.budgets, self.scale = budgets, scale
        self.bad: dict[int, list[str]] = {}  # number of the step -> ids of its questions

    def state(self) -> dict:
        bad = [[step, ids] for step, ids in self.bad.items()]
        budgets = {budget.key: budget.value for budget in self.budgets}
        return {"args": {}, "attributes": {"budgets": budgets, "scale": self.scale.state(), "bad": bad}}

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            check_finite(model, f"checkpoint {checkpoint}", trained=True)
        # A checkpoint of an earlier version has none of these.
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        for budget in self.budgets:
            budget.value = min(budget.value, kept["budgets"].get(budget.key, budget.value))
        self.scale.restore(kept.get("scale", self.scale.state()))
        self.bad = {step: ids for step, ids in kept["bad"]}

    def agree(self) -> None:
        """Processes of one run go on with the smallest budget that any of them came to."""
        everyone = gather_object([[budget.value for budget in self.budgets]])
        for budget, *values in zip(self.budgets, *everyone, strict=True):
            budget.value = min(values)

    def count(self, step: int, nonfinite_ids: Sequence[str], example_ids: Sequence[str]) -> None:
        """Add a bad step, with the questions to blame. All processes of a run call this alike."""
        self.bad[step] = list(dict.fromkeys(gather_object(list(nonfinite_ids)) or gather_object(list(example_ids))))
        log.warning("step %d is skipped: its loss or gradient is not finite (%d in a row)", step, len(self.bad))

    def stop_at_limit(self) -> None:
        """Raises `HartError`, with the questions named, after `LIMIT` bad steps in a row."""
        if len(self.bad) < LIMIT:
            return
        steps = sorted(self.bad)
        counts = Counter(i for ids in self.bad.values() for i in ids)
        names = ", ".join(shown(i) for i, _ in counts.most_common(NAMED))
        more = f" and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
        raise HartError(
            f"stopped: the loss or its gradient was not finite in {len(steps)} steps in a row, {steps[0]} to "
            f"{steps[-1]}. None of them changed the weights. Their questions, those in most of these steps first: "
            f"{names}{more}\nBegin a new run without them, with a lower lr, or with model.dtype=bfloat16 (float32 on "
            "CPU): float16 ends at 65504"
        )


class NonFiniteGuard:
    """Mixin for trainers. `guard` is to be there before the Trainer's own constructor runs."""

    guard: StepGuardState

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        self.guard.stop_at_limit()  # only now: the callbacks have written the step's metrics

    def skips(self, loss: float, nonfinite_ids: Sequence[str], example_ids: Sequence[str]) -> bool:
        """Whether the step is not to be taken. Then its gradients are gone, and it is counted with its questions: those
        whose own loss is not finite or, where there is none (the gradient alone may be at fault), all of the step's.

        All processes call this alike, on true gradients, after these were summed.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # A norm may overflow where no gradient does; clipping would make them zero, and Adam still moves on such.
        finite = bool(self.summed(torch.tensor(loss)).isfinite())
        if bool(torch.isfinite(norm)) and finite:
            self.guard.scale.worked()
            if norm > 0:  # a step with nothing to learn from says neither that it is well nor that it is not
                self.guard.bad.clear()
            return False
        if finite:
            self.guard.scale.overflowed()
        self.model.zero_grad(set_to_none=True)  # the optimizer passes a parameter without gradient by
        self.guard.count(self.state.global_step + 1, nonfinite_ids, example_ids)
        return True

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        """Over the processes of the run."""
        return self.accelerator.reduce(value.to(self.args.device), "sum") if self.args.world_size > 1 else value
