"""What both trainers do about steps that went wrong, and what of it a resumed run has to know.

A step whose loss or gradient is not finite changes nothing: neither weights nor the optimizer's moments. The learning
rate goes on as if it had, since its course is one of the recipe's steps. A few are usual in float16; `LIMIT` in a row
are a fault, and end the run with their questions named.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hart_lite.errors import HartError
from hart_lite.models.finite import check_finite
from hart_lite.models.oom import Budget
from hart_lite.utils.text import shown

log = logging.getLogger(__name__)
LIMIT = 5  # steps in a row
NAMED = 16  # questions in the message
HISTORY = 2  # rows of figures that the Trainer keeps: all of them would be written anew with every checkpoint


class Standing(TrainerCallback, ExportableState):
    """Travels in the checkpoints (trainer_state.json): budgets as they were halved, and the bad steps just before."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self.budgets = budgets
        self.bad: dict[int, list[str]] = {}  # number of the step -> ids of its questions

    def state(self) -> dict:
        bad = [[step, ids] for step, ids in self.bad.items()]
        return {"args": {}, "attributes": {"budgets": {b.key: b.value for b in self.budgets}, "bad": bad}}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        # Not there: a checkpoint of an earlier version.
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        for budget in self.budgets:
            budget.value = min(budget.value, kept["budgets"].get(budget.key, budget.value))
        self.bad = {step: ids for step, ids in kept["bad"]}

    def agree(self) -> None:
        """Processes of one run go on with the smallest budget that any of them came to."""
        everyone = gather_object([[budget.value for budget in self.budgets]])
        for budget, *values in zip(self.budgets, *everyone, strict=True):
            budget.value = min(values)

    def count(self, step: int, spoilt: Sequence[str], asked: Sequence[str]) -> None:
        """Called by all processes of a run alike."""
        self.bad[step] = list(dict.fromkeys(gather_object(list(spoilt)) or gather_object(list(asked))))
        log.warning("step %d is skipped: its loss or gradient is not finite (%d in a row)", step, len(self.bad))

    def stop_at_limit(self) -> None:
        if len(self.bad) < LIMIT:
            return
        steps = sorted(self.bad)
        found = Counter(i for ids in self.bad.values() for i in ids)
        names = ", ".join(shown(i) for i, _ in found.most_common(NAMED))
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise HartError(
            f"stopped: the loss or its gradient was not finite in {len(steps)} steps in a row, {steps[0]} to "
            f"{steps[-1]}. None of them changed the weights. Their questions, those in most of these steps first: "
            f"{names}{more}\nBegin a new run without them, with a lower lr, or with model.dtype=bfloat16 (float32 on "
            "CPU): float16 ends at 65504"
        )


class Guarded:
    """Mixin for trainers. `standing` is to be there before the Trainer's own constructor runs."""

    standing: Standing

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        del self.state.log_history[:-HISTORY]
        self.standing.stop_at_limit()  # only now: the step's figures are written

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        check_finite(self.model, f"checkpoint {resume_from_checkpoint}", trained=True)

    def _skipped(self, loss: float, spoilt: Sequence[str], asked: Sequence[str]) -> bool:
        """Whether the step is not to be taken: then the gradients are gone, and the step is counted with its questions:
        those that are `spoilt`, or where there is none (the gradient alone may be) all that were `asked`.

        To be called by all processes alike, on true gradients, after they were summed.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        step, norm = self.state.global_step + 1, nn.utils.get_total_norm(gradients)
        # A norm may overflow where no gradient does; clipping would make them zero, and Adam still moves on such.
        if bool(torch.isfinite(norm)) and self._summed(torch.tensor(loss)).isfinite():
            if norm > 0:  # one with nothing to learn from says neither
                self.standing.bad.clear()
            return False
        self.model.zero_grad(set_to_none=True)  # without gradient, the optimizer passes a parameter by
        self.standing.count(step, spoilt, asked)
        return True

    def _summed(self, value: torch.Tensor) -> torch.Tensor:
        """Over the processes of the run."""
        return self.accelerator.reduce(value.to(self.args.device), "sum") if self.args.world_size > 1 else value
