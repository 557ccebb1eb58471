"""Stage 1: rollout -> reward -> weights -> packed loss. What it shares with stage 2 is in
`hart_lite.training.step_trainer`."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import TrainingArguments

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import RLStage
from hart_lite.errors import NotFiniteError
from hart_lite.inference.rollout import Runner
from hart_lite.models.oom import Budget
from hart_lite.models.packing import Pack, pack
from hart_lite.rl.advantages import ap_weights, group_advantages
from hart_lite.rl.losses import Metrics, policy_loss, token_weights
from hart_lite.training.metrics import Clock, measure
from hart_lite.training.question_order import QuestionOrder
from hart_lite.training.rollout_log import save_rollouts
from hart_lite.training.step_trainer import StepTrainer, Update
from hart_lite.types import Example, Group, Tokens
from hart_lite.utils.phase import begin_phase

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
    example_ids: list[str]


def weigh(groups: Sequence[Group], k: float, beta: float, num_nonflat_groups_global: int | None = None) -> Weighted:
    """Advantages and AP-GRPO weights of the groups that carry a signal.

    A flat group has no policy gradient. It is left out rather than averaged in: the mean is over the groups that are
    left, so that a step's size does not shrink with the number of questions that taught nothing.
    `num_nonflat_groups_global` counts these over all processes that share the step; None: there is one process.
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
        per_sequence(token_weights(lengths_B_G)) * (len(live) / (num_nonflat_groups_global or len(live))),
        [group.example.id for group in live for t in group.trajectories for _ in t.sequences],
    )


class RLTrainer(StepTrainer):
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
        self._order = QuestionOrder(len(examples), stage.questions_per_step, self._seed, [e.id for e in examples])
        budget = Budget(f"stages.{number}.tokens_per_pack", stage.tokens_per_pack)
        super().__init__(runner.policy, args, budget, [runner.engine.budget], **kwargs)

    # -- one step --------------------------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Roll out, weigh, and accumulate the gradients of all packs. Returns the loss, 0 where it is skipped."""
        step, clock, views = self.state.global_step, Clock(self.policy.device), self.policy.views
        waited = views.waited
        self.guard.agree()
        questions = self.questions(step)
        first_groups, groups, replaced = self._groups(questions, step)
        clock.lap("rollout")
        if step + 1 < self.stage.steps:
            self.runner.look_ahead(self.questions(step + 1))
        live = self.summed(torch.tensor(float(sum(not group.flat for group in groups))))
        batch = weigh(groups, self.k, self.recipe.beta, int(live))
        update = self._update(batch, clock)
        if not groups:
            update = Update([], {"loss": math.nan}, [example.id for example in questions])
        skipped = self.finish(update, batch.example_ids, signal=bool(live))
        clock.lap("update")
        metrics = update.metrics | {"skipped": float(skipped)}
        self.step_metrics = measure(first_groups, replaced, update.packs, metrics, clock)
        budgets = {"tokens_per_pack": self.budget.value, "tokens_per_batch": self.runner.engine.budget.value}
        self.step_metrics |= budgets | {"seconds_images": views.waited - waited}  # a part of those of the rollout
        every = self.stage.log_rollouts_every
        if every and self.state.is_world_process_zero and (step % every == 0 or step + 1 == self.stage.steps):
            save_rollouts(self.folder, step, groups)
        return self.reported(skipped)

    @property
    def _share(self) -> int:
        """How many questions of a step are this process's."""
        return self.stage.questions_per_step // self.args.world_size

    def questions(self, step: int) -> list[Example]:
        """Those of this process in a step. Each has the next questions after the ones of the process before it."""
        first = (step * self.args.world_size + self.args.process_index) * self._share
        return [self.examples[self._order[first + n]] for n in range(self._share)]

    def _groups(self, questions: Sequence[Example], step: int) -> tuple[list[Group], list[Group], list[Group]]:
        """(the first draw, groups to train on, groups drawn instead of flat ones); nothing where the policy's scores
        were not finite, which its weights may not be to blame for: float16 ends at 65504."""
        try:
            first = self.rollout(questions, step)
            return first, *self.replace_flat(first, step)
        except NotFiniteError as error:
            log.warning("step %d: %s", step + 1, error)
            return [], [], []

    def rollout(self, examples: Sequence[Example], step: int, attempt: int = 0) -> list[Group]:
        """One group for each question; each process draws what one process would have drawn for its questions."""
        begin_phase("rollout")
        seed = random.Random(f"{self._seed}/{step}" + f"/{attempt}" * bool(attempt)).getrandbits(60)
        first = self.args.process_index * self._share
        return self.runner.rollout(examples, self.loop, self.recipe.rollout.samples, seed, first)

    def replace_flat(self, groups: Sequence[Group], step: int) -> tuple[list[Group], list[Group]]:
        """(groups to train on, groups drawn instead of flat ones): questions whose samples all earn the same are
        replaced by others, a bounded number of times, and while there are questions that the step has not asked."""
        groups, replaced, spare = list(groups), [], self._spare(step)
        for attempt in range(1, self.recipe.rollout.resample_flat_groups + 1):
            flat = [n for n, group in enumerate(groups) if group.flat][: len(spare)]
            if not flat:
                break
            drawn, spare = spare[: len(flat)], spare[len(flat) :]
            fresh = self.rollout(drawn, step, attempt)
            replaced += fresh
            for n, group in zip(flat, fresh, strict=True):
                groups[n] = group
        return groups, replaced

    def _spare(self, step: int) -> list[Example]:
        """Questions to replace others of this process with, all different: no process asks them in this step."""
        per_step = self.stage.questions_per_step
        asked = {self._order[step * per_step + n] for n in range(per_step)}
        others = [n for n in range(len(self.examples)) if n not in asked]
        most = min(len(others), per_step * self.recipe.rollout.resample_flat_groups)
        drawn = random.Random(f"{self._seed}/{step}/others").sample(others, most)
        return [self.examples[n] for n in drawn[self.args.process_index :: self.args.world_size]]

    def _update(self, batch: Weighted, clock: Clock) -> Update:
        """Gradients of all packs."""
        longest = max(map(len, batch.sequences), default=0)
        attempt = partial(self._pass, batch, longest, clock)
        return self.update_within_memory(attempt, longest, f"a sequence of {longest} tokens")

    def _pass(self, batch: Weighted, longest: int, clock: Clock) -> Update:
        """Within the budget, but for a single sequence that is longer: the recipe allows it, so it is tried."""
        most = min(max(self.budget.value, longest), self.stage.tokens_per_pack)
        packs = pack(batch.sequences, self.policy.family.positions, most)
        references = self._reference_logps(packs)
        clock.lap("reference")
        begin_phase("update")

        def loss(n: int) -> tuple[torch.Tensor, Metrics]:
            return self._loss(batch, packs[n], references[n])

        return self.accumulate(packs, [batch.example_ids] * len(packs), loss)

    def _reference_logps(self, packs: Sequence[Pack]) -> list[torch.Tensor | None]:
        if self.recipe.beta == 0:
            return [None] * len(packs)
        with self.policy.reference():
            return [self.policy.logps(p, self.recipe.rollout.temperature) for p in packs]

    def _loss(self, batch: Weighted, packed: Pack, reference: torch.Tensor | None) -> tuple[torch.Tensor, Metrics]:
        logps = self.policy.logps(packed, self.recipe.rollout.temperature)
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
        gap = (logps.detach() - packed.drawn_N.to(logps.device)).abs()
        return loss, metrics | {"sampling_gap": gap.nansum(), "drawn_tokens": gap.isfinite().sum()}
