"""What both stages share: a `transformers.Trainer` whose training step is a whole optimizer step, computed on packs.

The Trainer keeps the optimizer, the schedule, clipping, checkpoints, callbacks and trackers. What a step computes
depends on the weights, the seed and the step's number alone, so resuming is starting at step N. The public methods of
the Trainer are all that is overridden.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from hart_lite.errors import ModelError
from hart_lite.models.oom import Budget, Draws, within_memory
from hart_lite.models.packing import Pack
from hart_lite.models.policy import Policy
from hart_lite.rl.losses import Metrics
from hart_lite.training.checkpointing import SealCheckpoints
from hart_lite.training.loss_scale import LossScale
from hart_lite.training.step_guard import NonFiniteGuard, StepGuardState

HISTORY = 2  # rows of metrics that the Trainer keeps: all of them would be written anew with every checkpoint


@dataclass(frozen=True)
class Update:
    """What a pass over all packs of a step came to: metrics, and the ids of questions whose loss is not finite."""

    packs: list[Pack]
    metrics: dict[str, float]
    nonfinite_ids: list[str]


class StepTrainer(NonFiniteGuard, Trainer):
    """Trains the adapters of `policy` for `args.max_steps` steps; subclasses write `training_step`.

    `budget` bounds what one forward and backward pass takes and is halved where memory runs out. It travels in the
    checkpoints, as the `others` do.
    """

    def __init__(
        self, policy: Policy, args: TrainingArguments, budget: Budget, others: Sequence[Budget] = (), **kwargs
    ) -> None:
        self.policy, self.budget, self.planned = policy, budget, budget.value
        self.step_metrics: dict[str, float] = {}
        scale = LossScale(policy.model.get_input_embeddings().weight.dtype)
        self.guard = StepGuardState([budget, *others], scale)
        super().__init__(model=policy.peft, args=args, **kwargs)
        self.add_callback(self.guard)
        self.add_callback(SealCheckpoints())

    def get_train_dataloader(self) -> DataLoader:
        """One item for each step, the same for every process: `training_step` finds its own questions."""
        return DataLoader([{"step": n} for n in range(self.args.max_steps)], batch_size=1)

    def floating_point_ops(self, inputs) -> int:
        return 0  # the Trainer's formula knows neither packs nor rollouts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self.step_metrics}, start_time)
        self.step_metrics = {}
        del self.state.log_history[:-HISTORY]

    # -- one step --------------------------------------------------------------------------------------------------

    def update_within_memory(self, attempt: Callable[[], Update], least: int, what: str) -> Update:
        """What `attempt` returns. Where memory runs out, its gradients are thrown away and it is made again with half
        the budget, but not below `least`.

        Processes do so each for itself: they wait for each other only to sum what came out. Raises `ModelError` when
        the smallest part, which `what` names, does not fit.
        """
        draws = Draws(self.policy.device)
        while (update := within_memory(attempt)) is None:
            self.model.zero_grad(set_to_none=True)
            draws.again()
            if self.budget.value <= least:
                raise ModelError(
                    f"out of memory: {what} does not fit alone ({self.budget.key} is {self.planned}, halved to "
                    f"{self.budget.value}). Lower pixels.full, pixels.crop or rollout.max_tokens_*, or set "
                    "model.gradient_checkpointing=true or model.quant=nf4; `hart-lite plan` says what fits"
                )
            self.budget.halve(f"the update of step {self.state.global_step + 1}")
        return update

    def accumulate(
        self, packs: Sequence[Pack], ids: Sequence[Sequence[str]], loss: Callable[[int], tuple[torch.Tensor, Metrics]]
    ) -> Update:
        """Add the gradients of all packs to those that are there. `loss(n)` is that of pack n, with its metrics;
        `ids[n]` are the ids of the questions that its sequences belong to."""
        totals, nonfinite_ids = defaultdict(float, loss=0.0), []
        self.policy.model.train()
        try:
            for n, packed in enumerate(packs):
                value, metrics = loss(n)
                self.accelerator.backward(value * self.guard.scale.value)
                metrics = {"loss": value.detach(), **metrics}
                parts = torch.stack([part.float() for part in metrics.values()]).tolist()  # read at one time
                for name, part in zip(metrics, parts, strict=True):
                    totals[name] += part
                if not math.isfinite(parts[0]):
                    nonfinite_ids += [ids[n][owner] for owner in packed.owners_N.unique().tolist()]
        finally:
            self.policy.model.eval()
        return Update(list(packs), dict(totals), nonfinite_ids)

    def finish(self, update: Update, example_ids: Sequence[str], signal: bool = True) -> bool:
        """Bring the gradients into the form that the optimizer takes. Returns whether the step is skipped.

        `signal` says whether any process has something to learn from. Without it there are no gradients, as with one
        process: Adam passes those by, and would move the weights on gradients of zero by its momentum.
        """
        for parameter in self.policy.adapter_parameters:
            if self.args.world_size > 1 and signal:  # packs bypass the wrapper that would do it for a plain model
                local = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.summed(local)
            if parameter.grad is not None:  # there is none in a step without signal
                parameter.grad.div_(self.guard.scale.value)
        self.policy.forget_images()  # the weights that made the features are about to change
        return self.skips(update.metrics["loss"], update.nonfinite_ids, example_ids)

    def reported(self, skipped: bool) -> torch.Tensor:
        """The loss as the Trainer wants it. It adds them up: one that is not finite would never leave its sum."""
        return torch.tensor(0.0 if skipped else self.step_metrics["loss"], device=self.args.device)
