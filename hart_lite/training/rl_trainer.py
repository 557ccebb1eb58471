"""Stage 1: rollout -> reward -> weights -> packed loss, on transformers.Trainer.

The Trainer keeps the optimizer, the schedule, checkpoints, callbacks and trackers. What a step computes is here, and
depends on the weights, the seed and the step's number alone: resuming is starting at step N.
"""

from __future__ import annotations

import logging
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import RLStage
from hart_lite.errors import HartError, NotFiniteError
from hart_lite.inference.rollout import Runner
from hart_lite.models.oom import Budget, Draws, within_memory
from hart_lite.models.packing import Pack, pack
from hart_lite.rl.advantages import ap_weights, group_advantages
from hart_lite.rl.losses import gradient_scale, policy_loss, token_weights
from hart_lite.runs.checkpoints import SealedCheckpoints
from hart_lite.training.metrics import Clock, measure
from hart_lite.training.rollout_log import save_rollouts
from hart_lite.training.step_guard import Guarded, Standing
from hart_lite.types import Example, Group, Tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weighted:
    """Sequences to train on, with what each carries: N_seq sequences, the values of the trajectory each belongs to, and
    the ids of their questions.

    weights sum to 1 over all sampled tokens of the step (less where a trajectory has no token to train).
    """

    sequences: list[Tokens]
    advantages: torch.Tensor
    mu1: torch.Tensor
    mu2: torch.Tensor
    weights: torch.Tensor
    asked: list[str]


def weigh(groups: Sequence[Group], k: float, beta: float, live_everywhere: int | None = None) -> Weighted:
    """Advantages and AP-GRPO weights of the groups that carry a signal.

    A flat group has no policy gradient. It is left out rather than averaged in: the mean is over the groups that are
    left, so that a step's size does not shrink with the number of questions that taught nothing. `live_everywhere`
    counts them over all processes that share the step; without it, these groups are all there are.
    """
    live = [group for group in groups if not group.flat]
    if not live:
        empty = torch.zeros(0)
        return Weighted([], empty, empty, empty, empty, [])
    rewards_B_G = torch.tensor([group.rewards for group in live])
    lengths_B_G = torch.tensor(
        [[sum(len(span) for s in t.sequences for span in s.sampled) for t in group.trajectories] for group in live]
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
        [group.example.id for group in live for t in group.trajectories for _ in t.sequences],
    )


@dataclass(frozen=True)
class Update:
    """What a pass over all packs came to: figures, and the ids of questions whose loss is not finite."""

    packs: list[Pack]
    figures: dict[str, float]
    spoilt: list[str]


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


class RLTrainer(SealedCheckpoints, Guarded, Trainer):
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
        self._scale = gradient_scale(runner.policy.model.get_input_embeddings().weight.dtype)
        self.budget = Budget(f"stages.{number}.tokens_per_pack", stage.tokens_per_pack)
        self.standing = Standing([self.budget, runner.engine.budget])
        indices = _StepIndices(len(examples), stage.steps * stage.questions_per_step, self._seed)
        super().__init__(model=runner.policy.peft, args=args, train_dataset=indices, **kwargs)
        self.add_callback(self.standing)

    def _get_train_sampler(self, train_dataset=None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def floating_point_ops(self, inputs) -> int:
        return 0  # the Trainer's formula knows neither packs nor rollouts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self._figures}, start_time)
        self._figures = {}

    # -- one step --------------------------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Roll out, weigh, and accumulate the gradients of all packs. Returns the loss, 0 where it is skipped."""
        policy, step = self.runner.policy, self.state.global_step
        clock, waited = Clock(policy.device), policy.views.waited
        self.standing.agree()
        asked = [self.examples[i] for i in inputs["index"].tolist()]
        first_groups, groups, replaced = self._groups(asked, step)
        clock.lap("rollout")
        self.runner.look_ahead(self._asked_at(step + 1))
        live = self._summed(torch.tensor(float(sum(not group.flat for group in groups))))
        batch = weigh(groups, self.k, self.recipe.beta, int(live))
        update = self._update(batch, clock)
        if not groups:
            update = Update([], {"loss": math.nan}, [example.id for example in asked])
        self._share_gradients()
        self._unscale()
        skipped = self._skipped(update.figures["loss"], update.spoilt, batch.asked)
        clock.lap("update")
        policy.forget_images()  # the weights that made the features are about to change
        self._figures = measure(
            first_groups, replaced, update.packs, update.figures | {"skipped": float(skipped)}, clock
        )
        self._figures["seconds_images"] = policy.views.waited - waited  # a part of those of the rollout
        self._figures |= {"tokens_per_pack": self.budget.value, "tokens_per_batch": self.runner.engine.budget.value}
        every = self.stage.log_rollouts_every
        if every and self.state.is_world_process_zero and (step % every == 0 or step + 1 == self.stage.steps):
            save_rollouts(self.folder, step, groups)
        # Added up by the Trainer, one that is not finite would never leave its sum.
        return torch.tensor(0.0 if skipped else self._figures["loss"], device=self.args.device)

    def _asked_at(self, step: int) -> list[Example]:
        """This process's questions of a step; none after the last one."""
        size, place = self.args.per_device_train_batch_size, self.args.process_index
        first = (step * self.args.world_size + place) * size
        asked = range(first, min(first + size, len(self.train_dataset)))
        return [self.examples[self.train_dataset[n]["index"]] for n in asked]

    def _groups(self, asked: Sequence[Example], step: int) -> tuple[list[Group], list[Group], list[Group]]:
        """(the first draw, groups to train on, groups drawn instead of flat ones); nothing where the policy's scores
        were not finite, which its weights may not be to blame for: float16 ends at 65504."""
        try:
            first = self.rollout(asked, step)
            return first, *self._replace_flat(first, step)
        except NotFiniteError as error:
            log.warning("step %d: %s", step + 1, error)
            return [], [], []

    def rollout(self, examples: Sequence[Example], step: int, attempt: int = 0) -> list[Group]:
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
            fresh = self.rollout(chance.choices(self.examples, k=len(flat)), step, attempt)
            replaced += fresh
            for n, group in zip(flat, fresh, strict=True):
                groups[n] = group
        return groups, replaced

    def _update(self, batch: Weighted, clock: Clock) -> Update:
        """Gradients of all packs. Where memory runs out they are thrown away, and made again in packs of half the size.

        Processes do so each for itself: they wait for each other only to sum what came out. Raises `HartError` when
        the longest sequence alone does not fit.
        """
        draws, longest = Draws(self.runner.policy.device), max(map(len, batch.sequences), default=0)
        while (update := within_memory(lambda: self._pass(batch, longest, clock))) is None:
            self.model.zero_grad(set_to_none=True)
            draws.again()
            if self.budget.value <= longest:
                raise HartError(
                    f"out of memory: a sequence of {longest} tokens does not fit alone ({self.budget.key} is "
                    f"{self.stage.tokens_per_pack}, halved to {self.budget.value}). Lower pixels.full, pixels.crop or "
                    "rollout.max_tokens_*, or set model.gradient_checkpointing=true or model.quant=nf4; `hart-lite "
                    "plan` says what fits"
                )
            self.budget.halve(f"the update of step {self.state.global_step + 1}")
        return update

    def _pass(self, batch: Weighted, longest: int, clock: Clock) -> Update:
        """Within the budget, but for a single sequence that is longer: the recipe allows it, so it is tried."""
        most = min(max(self.budget.value, longest), self.stage.tokens_per_pack)
        packs = pack(batch.sequences, self.runner.policy.family.positions, most)
        references = self._reference_logps(packs)
        clock.lap("reference")
        return self._accumulate(batch, packs, references)

    def _reference_logps(self, packs: Sequence[Pack]) -> list[torch.Tensor | None]:
        if self.recipe.beta == 0:
            return [None] * len(packs)
        with self.runner.policy.reference():
            return [self.runner.policy.logps(p, self.recipe.rollout.temperature) for p in packs]

    def _accumulate(self, batch: Weighted, packs: list[Pack], references: Sequence[torch.Tensor | None]) -> Update:
        policy, totals, spoilt = self.runner.policy, defaultdict(float, loss=0.0), []
        policy.model.train()
        try:
            for packed, reference in zip(packs, references, strict=True):
                figures = self._backward(batch, packed, reference)
                for name, value in figures.items():
                    totals[name] += value
                if not math.isfinite(figures["loss"]):
                    spoilt += [batch.asked[n] for n in packed.owners_N.unique().tolist()]
        finally:
            policy.model.eval()
        return Update(packs, dict(totals), spoilt)

    def _backward(self, batch: Weighted, packed: Pack, reference: torch.Tensor | None) -> dict[str, float]:
        """Add a pack's gradients to those that are there."""
        logps = self.runner.policy.logps(packed, self.recipe.rollout.temperature)
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
        self.accelerator.backward(loss * self._scale)
        gap = (logps.detach() - packed.drawn_N.to(logps.device)).abs()
        metrics |= {"loss": loss.detach(), "sampling_gap": gap.nansum(), "drawn_tokens": gap.isfinite().sum()}
        return dict(zip(metrics, torch.stack([*metrics.values()]).tolist(), strict=True))  # read at one time

    def _share_gradients(self) -> None:
        """Sum the adapters' gradients over processes: packs bypass the wrapper that would do it for a plain model."""
        if self.args.world_size > 1:
            for parameter in self.runner.policy.adapter_parameters:
                local = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self._summed(local)

    def _unscale(self) -> None:
        """Back to true gradients; of a step without signal there are none."""
        for parameter in self.runner.policy.adapter_parameters:
            if parameter.grad is not None:
                parameter.grad.div_(self._scale)
