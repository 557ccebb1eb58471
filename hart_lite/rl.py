"""Stage 1: rollout -> reward -> weights -> packed loss, on transformers.Trainer.

The Trainer keeps the optimizer, the schedule, checkpoints, callbacks and trackers. What a step computes is here, and
depends on the weights, the seed and the step's number alone: resuming is starting at step N.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments

from hart_lite.advantages import ap_weights, group_advantages
from hart_lite.checkpoints import SealedCheckpoints
from hart_lite.figures import Clock, measure
from hart_lite.losses import gradient_scale, policy_loss, token_weights
from hart_lite.packing import Pack, pack
from hart_lite.recipe_schema import Recipe, RLStage
from hart_lite.rollout import Runner
from hart_lite.rollout_log import save_rollouts
from hart_lite.types import Example, Group, Tokens


@dataclass(frozen=True)
class Weighted:
    """Sequences to train on, with what each carries: N_seq sequences, the values of the trajectory each belongs to.

    weights sum to 1 over all sampled tokens of the step (less where a trajectory has no token to train).
    """

    sequences: list[Tokens]
    advantages: torch.Tensor
    mu1: torch.Tensor
    mu2: torch.Tensor
    weights: torch.Tensor


def weigh(groups: Sequence[Group], k: float, beta: float, live_everywhere: int | None = None) -> Weighted:
    """Advantages and AP-GRPO weights of the groups that carry a signal.

    A flat group has no policy gradient. It is left out rather than averaged in: the mean is over the groups that are
    left, so that a step's size does not shrink with the number of questions that taught nothing. `live_everywhere`
    counts them over all processes that share the step; without it, these groups are all there are.
    """
    live = [group for group in groups if not group.flat]
    if not live:
        empty = torch.zeros(0)
        return Weighted([], empty, empty, empty, empty)
    rewards_B_G = torch.tensor([group.rewards for group in live])
    lengths_B_G = torch.tensor(
        [[sum(b - a for s in t.sequences for a, b in s.sampled) for t in group.trajectories] for group in live]
    )
    mu1_B_G, mu2_B_G = ap_weights(rewards_B_G, k=k, beta=beta)
    trajectories = [t for group in live for t in group.trajectories]
    counts = torch.tensor([len(t.sequences) for t in trajectories])

    def per_sequence(values_B_G: torch.Tensor) -> torch.Tensor:
        return values_B_G.flatten().repeat_interleave(counts)

    return Weighted(
        [s for t in trajectories for s in t.sequences],
        per_sequence(group_advantages(rewards_B_G)),
        per_sequence(mu1_B_G),
        per_sequence(mu2_B_G),
        per_sequence(token_weights(lengths_B_G)) * (len(live) / (live_everywhere or len(live))),
    )


class _StepIndices(Dataset):
    """Item i is the index of the i-th question a run asks: a new permutation, drawn from the seed, on every pass."""

    def __init__(self, examples: int, length: int, seed: int | str) -> None:
        self.examples, self.length, self.seed = examples, length, seed
        self._epoch, self._order = -1, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, int]:
        epoch, place = divmod(i, self.examples)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self.examples))
            random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
        return {"index": self._order[place]}


class RLTrainer(SealedCheckpoints, Trainer):
    """Trains `runner.policy` on `examples` as `recipe` and its `stage` say. `folder` receives the rollouts.

    `number` is the stage's place in the recipe: a second stage asks in another order and draws other samples.
    """

    def __init__(
        self,
        runner: Runner,
        examples: Sequence[Example],
        recipe: Recipe,
        stage: RLStage,
        args: TrainingArguments,
        folder: Path,
        number: int = 0,
        **kwargs,
    ) -> None:
        self.runner, self.examples, self.recipe, self.stage, self.folder = runner, examples, recipe, stage, folder
        self.loop = stage.loop or recipe.loop
        self.k = recipe.k if (stage.objective or recipe.objective) == "ap_grpo" else 0.0
        self._seed = f"{recipe.seed}/{number}"
        self._figures: dict[str, float] = {}
        indices = _StepIndices(len(examples), stage.steps * stage.questions_per_step, self._seed)
        super().__init__(model=runner.policy.peft, args=args, train_dataset=indices, **kwargs)

    def _get_train_sampler(self, train_dataset=None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def floating_point_ops(self, inputs) -> int:
        return 0  # the Trainer's formula knows neither packs nor rollouts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self._figures}, start_time)
        self._figures = {}

    # -- one step --------------------------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Roll out, weigh, and accumulate the gradients of all packs. Returns the step's loss."""
        policy, step = self.runner.policy, self.state.global_step
        clock = Clock(policy.device)
        asked = [self.examples[i] for i in inputs["index"].tolist()]
        first_groups = self._rollout(asked, step)
        groups, replaced = self._replace_flat(first_groups, step)
        clock.lap("rollout")
        live = self._summed(torch.tensor(float(sum(not group.flat for group in groups))))
        batch = weigh(groups, self.k, self.recipe.beta, int(live))
        packs = pack(batch.sequences, policy.family.positions, self.stage.tokens_per_pack)
        references = self._reference_logps(packs)
        clock.lap("reference")
        metrics = self._accumulate(batch, packs, references)
        clock.lap("update")
        policy.forget_images()  # the weights that made the features are about to change
        self._figures = measure(first_groups, replaced, packs, metrics, clock)
        every = self.stage.log_rollouts_every
        if every and self.state.is_world_process_zero and (step % every == 0 or step + 1 == self.stage.steps):
            save_rollouts(self.folder, step, groups)
        return torch.tensor(self._figures["loss"], device=self.args.device)

    def _rollout(self, examples: Sequence[Example], step: int, attempt: int = 0) -> list[Group]:
        """One group for each question; each process draws what one process would have drawn for its questions."""
        seed = random.Random(f"{self._seed}/{step}" + f"/{attempt}" * bool(attempt)).getrandbits(60)
        first = self.args.process_index * self.args.per_device_train_batch_size
        return self.runner.rollout(examples, self.loop, self.recipe.rollout.samples, seed, first)

    def _replace_flat(self, groups: Sequence[Group], step: int) -> tuple[list[Group], list[Group]]:
        """(groups to train on, groups drawn instead of flat ones): questions whose samples all earn the same are
        replaced by others, a bounded number of times."""
        groups, replaced = list(groups), []
        for attempt in range(1, self.recipe.rollout.resample_flat_groups + 1):
            flat = [n for n, group in enumerate(groups) if group.flat]
            if not flat:
                break
            chance = random.Random(f"{self._seed}/{step}/{attempt}/{self.args.process_index}")
            fresh = self._rollout(chance.choices(self.examples, k=len(flat)), step, attempt)
            replaced += fresh
            for n, group in zip(flat, fresh, strict=True):
                groups[n] = group
        return groups, replaced

    def _reference_logps(self, packs: Sequence[Pack]) -> list[torch.Tensor | None]:
        if self.recipe.beta == 0:
            return [None] * len(packs)
        with self.runner.policy.reference():
            return [self.runner.policy.logps(p, self.recipe.rollout.temperature) for p in packs]

    def _accumulate(
        self, batch: Weighted, packs: Sequence[Pack], references: Sequence[torch.Tensor | None]
    ) -> dict[str, float]:
        policy, totals = self.runner.policy, defaultdict(float)
        scale = gradient_scale(policy.model.get_input_embeddings().weight.dtype)
        policy.model.train()
        for packed, reference in zip(packs, references, strict=True):
            logps = policy.logps(packed, self.recipe.rollout.temperature)
            owners = packed.owners_N
            advantages, mu1, mu2, weights = (
                values[owners].to(logps.device) for values in (batch.advantages, batch.mu1, batch.mu2, batch.weights)
            )
            loss, metrics = policy_loss(
                logps_T=logps,
                old_logps_T=logps.detach(),  # one update per rollout: the ratio is 1 and the clip never acts
                advantages_T=advantages,
                mu1_T=mu1,
                weights_T=weights,
                clip_eps=self.recipe.clip_eps,
                ref_logps_T=reference,
                mu2_T=None if reference is None else mu2,
            )
            self.accelerator.backward(loss * scale)
            for name, value in {"loss": loss.detach(), **metrics}.items():
                totals[name] += value.item()
        policy.model.eval()
        self._share_gradients()
        return totals | {"skipped": float(self._unscale(scale))}

    def _share_gradients(self) -> None:
        """Sum the adapters' gradients over processes: packs bypass the wrapper that would do it for a plain model."""
        if self.args.world_size > 1:
            for parameter in self.runner.policy.adapter_parameters:
                local = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self._summed(local)

    def _summed(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value.to(self.args.device), "sum") if self.args.world_size > 1 else value

    def _unscale(self, scale: float) -> bool:
        """Back to true gradients. One that is not finite skips the step: True, and the step's metrics say so."""
        gradients = [p.grad for p in self.runner.policy.adapter_parameters if p.grad is not None]
        for gradient in gradients:  # of a step without signal there are none
            gradient.div_(scale)
        finite = all(bool(torch.isfinite(g).all()) for g in gradients)
        if not finite:
            self.model.zero_grad(set_to_none=True)
        return not finite
