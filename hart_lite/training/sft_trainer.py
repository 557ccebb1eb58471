"""Stage 2: supervised fine-tuning on packs, with the machinery of stage 1 (`hart_lite.training.step_trainer`).

What rows of a micro-batch have in common (the chat header, an image, a question) is computed once for all of them.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from transformers import TrainingArguments

from hart_lite.config.sections import SFTStage
from hart_lite.inference.rollout import Runner
from hart_lite.models.oom import Budget
from hart_lite.models.packing import pack
from hart_lite.rl.losses import Metrics, token_nll
from hart_lite.training.metrics import over_processes
from hart_lite.training.sft_data import SFTRows
from hart_lite.training.step_trainer import StepTrainer, Update
from hart_lite.types import Tokens
from hart_lite.utils.phase import begin_phase


def sft_steps(rows: int, stage: SFTStage) -> int:
    """Optimizer steps of a stage with so many rows."""
    return stage.steps or math.ceil(stage.epochs * math.ceil(rows / stage.batch_size))


def rows_of_step(rows: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The numbers of the rows that a step reads (it counts from 0), the same in every process. Each pass over the rows
    is a new permutation, drawn from the seed; its last batch may be smaller."""
    epoch, batch = divmod(step, math.ceil(rows / batch_size))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return order[batch * batch_size : (batch + 1) * batch_size]


class SFTStageTrainer(StepTrainer):
    """Trains `runner.policy` on `rows`: loss (8) of the paper, the mean over the answer tokens of the whole batch.

    Locate rows have a mean of their own, and the two are weighed by rows: a box has 29 to 45 tokens of Qwen's where a
    letter has 2, and would have 62 to 71 % of the loss at a tenth of the rows.
    `number` is the stage's place in the recipe.
    """

    def __init__(
        self, runner: Runner, rows: SFTRows, stage: SFTStage, args: TrainingArguments, number: int = 0, **kwargs
    ) -> None:
        self.rows, self.stage = rows, stage
        budget = Budget(f"stages.{number}.micro_batch_size", stage.micro_batch_size)
        super().__init__(runner.policy, args, budget, [runner.engine.budget], **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Accumulate the gradients of a batch. Returns the loss, 0 where the step is skipped."""
        begin_phase("SFT")
        self.guard.agree()
        numbers = rows_of_step(len(self.rows), self.stage.batch_size, self.args.seed, self.state.global_step)
        own = numbers[self.args.process_index :: self.args.world_size]
        rows, ids = [self.rows[n] for n in own], [self.rows.example_id(n) for n in own]
        self._look_ahead(rows)
        weights = self._weights(numbers, own, rows)
        longest = max(map(len, rows), default=0)
        update = self.update_within_memory(lambda: self._pass(rows, ids, weights), 1, f"a row of {longest} tokens")
        skipped = self.finish(update, ids)
        metrics = {name: (update.metrics.get(name, 0.0), 0) for name in ("loss", "mean_token_accuracy")}
        packed = sum(map(len, update.packs))
        self.step_metrics = over_processes(metrics | {"packed_tokens": (packed, 0), "skipped": (float(skipped), 1)})
        self.step_metrics["micro_batch_size"] = self.budget.value
        return self.reported(skipped)

    def _weights(self, numbers: list[int], own: list[int], rows: list[Tokens]) -> torch.Tensor:
        """The weight of a trained token of each row of this process, `rows`. Over the step's rows, whose numbers are
        `numbers`, the tokens of a kind weigh as much together as its share of the rows."""
        counts = Counter(map(self.rows.kind, numbers))
        tokens = dict.fromkeys(sorted(counts), 0)
        for n, row in zip(own, rows, strict=True):
            tokens[self.rows.kind(n)] += sum(map(len, row.sampled))
        over_all = self.summed(torch.tensor([float(count) for count in tokens.values()])).tolist()
        weights = {kind: counts[kind] / len(numbers) / n for kind, n in zip(tokens, over_all, strict=True)}
        return torch.tensor([weights[self.rows.kind(n)] for n in own])

    def _look_ahead(self, rows: list[Tokens]) -> None:
        """Begin to load the images of this step and of the next one."""
        ahead = []
        if self.state.global_step + 1 < self.args.max_steps:
            numbers = rows_of_step(len(self.rows), self.stage.batch_size, self.args.seed, self.state.global_step + 1)
            ahead = [self.rows[n] for n in numbers[self.args.process_index :: self.args.world_size]]
        self.policy.views.ahead([slot.view for row in (*rows, *ahead) for slot in row.slots])

    def _pass(self, rows: list[Tokens], ids: list[str], weights: torch.Tensor) -> Update:
        """One pack for each micro-batch; `weights` are those of a token of each row."""
        size, packs, owners, shares = self.budget.value, [], [], []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            packs += pack(part, self.policy.family.positions, tokens_per_pack=sum(map(len, part)))
            owners.append(ids[start : start + size])
            shares.append(weights[start : start + size])

        def loss(n: int) -> tuple[torch.Tensor, Metrics]:
            logps, hits = self.policy.logps_and_hits(packs[n])
            self.policy.forget_images()  # few rows of a batch share one, and all of its images may be many
            return token_nll(logps_T=logps, hits_T=hits, weights_T=shares[n][packs[n].owners_N].to(hits))

        return self.accumulate(packs, owners, loss)
