"""Stage `distil` (ours): on-policy self-distillation, an annotation-free Vision-OPD (arXiv 2605.18740).

After RL the policy answers well with its crops in sight and no better at a glance. Here the student answers from the
full image alone, sampled. The teacher is the policy as the stage began, with the crops in sight that it located itself.
The loss is the KL divergence between their next-token distributions on the student's own tokens. Only questions whose
boxes led to the right answer take part, so that no label of a box is read. What it buys is one pass at inference.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import DistilStage
from hart_lite.errors import HartError, NotFiniteError
from hart_lite.inference.engine import Decoding
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.models.packing import Pack, pack
from hart_lite.rl.losses import Metrics, token_weights
from hart_lite.training.metrics import Clock, over_processes, peak_memory
from hart_lite.training.question_trainer import QuestionTrainer
from hart_lite.training.step_trainer import Update
from hart_lite.types import Example, Tokens
from hart_lite.utils.phase import begin_phase

log = logging.getLogger(__name__)
PROMPTS = {"crops": hart.crops, "full+crops": hart.full_and_crops}


@dataclass(frozen=True)
class Rows:
    """The same responses twice, marked as sampled: after what the student saw and after what the teacher sees. `starts`
    says where the tokens of each begin among those of all, `weights` what a token of each weighs, which sum to 1 over
    the processes of the step."""

    student: list[Tokens]
    teacher: list[Tokens]
    starts: torch.Tensor
    weights: torch.Tensor
    ids: list[str]

    def places(self, packed: Pack) -> torch.Tensor:
        """(N,) where the sampled tokens of a pack stand among those of all rows."""
        return self.starts[packed.owners_N] + packed.offsets_N


class DistilTrainer(QuestionTrainer):
    """`located` says of each example where the policy looked, in ids, and whether it was right from there, as
    `sft_data.locate_once` finds it. To be made before a checkpoint is loaded: the teacher is the policy as it is now.

    Raises `HartError` where the policy was right for fewer questions than a step asks.
    """

    def __init__(
        self,
        runner: Runner,
        examples: Sequence[Example],
        located: Mapping[str, dict],
        recipe: Recipe,
        stage: DistilStage,
        args: TrainingArguments,
        number: int = 0,
        **kwargs,
    ) -> None:
        verified = [example for example in examples if located[example.id]["right"]]
        if len({example.id for example in verified}) < stage.questions_per_step:
            raise HartError(
                f"distil: the policy is right from its own crops for {len(verified)} of {len(examples)} questions, and "
                f"a step asks {stage.questions_per_step}; lower stages.{number}.questions_per_step, give more "
                "questions, or train RL longer before this stage"
            )
        self.located = located
        self.teacher = [parameter.detach().clone() for parameter in runner.policy.adapter_parameters]
        super().__init__(runner, verified, recipe, stage, args, number, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Sample, let the teacher read, and accumulate the gradients of all packs. Returns the loss, 0 where it is
        skipped."""
        step, clock = self.state.global_step, Clock(self.policy.device)
        self.begin_step()
        questions = self.questions(step)
        begin_phase("rollout")
        try:
            rows = self._rows(questions, step)
        except NotFiniteError as error:
            log.warning("step %d: %s", step + 1, error)
            rows = None
        clock.lap("rollout")
        if step + 1 < self.stage.steps:
            self.runner.look_ahead(self.questions(step + 1))
        ids = [example.id for example in questions]
        update = self._update(rows, clock) if rows else Update([], {"loss": math.nan}, ids)
        skipped = self.finish(update, ids)
        clock.lap("update")
        self.step_metrics = self._measured(rows, update, skipped, clock) | self.budgets()
        return self.reported(skipped)

    def _rows(self, questions: Sequence[Example], step: int) -> Rows:
        rollout, family = self.recipe.rollout, self.policy.family
        first = self.args.process_index * self._share * rollout.samples
        decoding = Decoding(rollout.temperature, rollout.top_p, self.seed_of(step), first)
        repeated = [example for example in questions for _ in range(rollout.samples)]
        turns = [drawn.turns[0] for drawn in self.runner.run(repeated, hart.full, decoding)]
        sights = {
            example.id: self.runner.prompt(
                example, PROMPTS[self.stage.teacher], [family.text(self.located[example.id]["said"])]
            )
            for example in questions
        }
        if not self.policy.trains_vision:  # all at one time: how they are packed then changes nothing of them
            self.policy.encode([slot.view for sight in sights.values() for slot in sight.slots])
        lengths = torch.tensor([len(turn.response) for turn in turns])
        weights = token_weights(lengths.view(len(questions), -1)).flatten() / self.args.world_size
        pairs = zip(repeated, turns, strict=True)
        teacher = [sights[example.id] + Tokens.response(turn.response, turn.kind) for example, turn in pairs]
        starts = lengths.cumsum(0) - lengths
        return Rows([turn.tokens for turn in turns], teacher, starts, weights, [e.id for e in repeated])

    def _update(self, rows: Rows, clock: Clock) -> Update:
        longest = max(map(len, (*rows.student, *rows.teacher)))
        return self.update_within_memory(
            lambda: self._pass(rows, self.most_tokens(longest), clock), longest, f"a sequence of {longest} tokens"
        )

    def _pass(self, rows: Rows, tokens: int, clock: Clock) -> Update:
        taught_N_H = self._taught(rows, tokens)
        clock.lap("reference")
        begin_phase("update")
        packs = pack(rows.student, self.policy.family.positions, tokens)

        def loss(n: int) -> tuple[torch.Tensor, Metrics]:
            places = rows.places(packs[n]).to(taught_N_H.device)
            kl = self.policy.kl(packs[n], taught_N_H[places], self.recipe.rollout.temperature)
            return (rows.weights[packs[n].owners_N].to(kl) * kl).sum(), {}

        return self.accumulate(packs, [rows.ids] * len(packs), loss)

    def _taught(self, rows: Rows, tokens: int) -> torch.Tensor:
        """(N, H) the teacher's hidden states for all sampled tokens, one row after the other."""
        parts, places = [], []
        with self.policy.adapters(self.teacher):
            for packed in pack(rows.teacher, self.policy.family.positions, tokens):
                parts.append(self.policy.states(packed))
                places.append(rows.places(packed))
        order = torch.cat(places).argsort().to(parts[0].device)
        return torch.cat(parts)[order]

    def _measured(self, rows: Rows | None, update: Update, skipped: bool, clock: Clock) -> dict[str, float]:
        """The loss is in nats a token."""
        sampled = sum(len(span) for tokens in rows.student for span in tokens.sampled) if rows else 0
        shares = {
            "loss": (update.metrics["loss"], 0),
            "tokens_answer": (sampled, len(rows.student) if rows else 0),
            "sampled": (sampled, 0),
            "packed_tokens": (sum(map(len, update.packs)), 0),
            "skipped": (float(skipped), 1),
        }
        figures = over_processes(shares)
        figures["tokens_per_second"] = figures.pop("sampled") / clock.laps["rollout"]
        return figures | peak_memory(clock.device) | {f"seconds_{name}": s for name, s in clock.laps.items()}
