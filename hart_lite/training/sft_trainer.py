"""Stage 2: supervised fine-tuning with the full image in sight, on trl.SFTTrainer.

The crops come from the stage-1 policy, greedily and once. A share of the rows repeats a box that led that policy to a
right answer from the crops alone: self-verified, so still free of annotation. Prompts are those of the loops.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from hart_lite.config.sections import SFTStage
from hart_lite.errors import HartError
from hart_lite.inference.prompts import target_text
from hart_lite.inference.protocols import hart
from hart_lite.inference.rollout import Runner
from hart_lite.models.families.base import Family
from hart_lite.models.oom import Budget, Draws, within_memory
from hart_lite.rl.losses import gradient_scale
from hart_lite.runs.checkpoints import SealedCheckpoints
from hart_lite.training.step_guard import Guarded, Standing
from hart_lite.types import Example, Tokens
from hart_lite.utils.files import write_whole
from hart_lite.utils.progress import progress

IGNORED = -100  # label of a token without loss, as transformers has it
ROWS = "rows"


def locate_once(runner: Runner, examples: Sequence[Example], cache: Path, batch_size: int) -> dict[str, dict]:
    """Where the policy looks, greedily, and whether it is right from there: {example id: {said, right}}.

    `said` is the first turn as it was sampled, in ids.

    Written to `cache` when complete and read from there afterwards, since training changes the policy.
    """
    if cache.exists():
        found = json.loads(cache.read_text(encoding="utf-8"))
        if found.keys() != {example.id for example in examples}:
            raise HartError(f"{cache} is about other questions: the data changed since the run began; start a new run")
        return found
    found = {}
    for start in progress(range(0, len(examples), batch_size), desc="locate for SFT", unit="batch", leave=False):
        batch = examples[start : start + batch_size]
        for example, t in zip(batch, runner.rewarded(batch, runner.run(batch, hart.crops)), strict=True):
            found[example.id] = {"said": list(t.turns[0].response), "right": t.reward == 1}
        runner.engine.forget_images()
    write_whole(cache, json.dumps(found))
    return found


def answer_row(runner: Runner, example: Example, said: Sequence[int], stage: SFTStage) -> Tokens:
    """The question with the full image, and its answer as the sampled span (the only tokens with loss)."""
    family = runner.policy.family
    if stage.context == "full":
        prompt = runner.prompt(example, hart.full)
    else:
        prompt = runner.prompt(example, hart.full_and_crops, [family.text(said)])
    return prompt + Tokens.response(family.response_ids(target_text(example, stage.target)), "verify")


def locate_row(runner: Runner, example: Example, said: Sequence[int]) -> Tokens:
    """(I_f, question) -> the turn whose boxes earned the reward, word for word."""
    return runner.prompt(example, hart.locate) + Tokens.response(said, "locate")


class SFTRows:
    """Rows as tokens, made when asked for. `keep_locate` is the share of self-verified locate rows among all."""

    def __init__(
        self, runner: Runner, examples: Sequence[Example], found: dict[str, dict], stage: SFTStage, seed: int
    ) -> None:
        self.runner, self.stage = runner, stage
        self.items = [("answer", e, found[e.id]) for e in examples]
        verified = [("locate", e, found[e.id]) for e in examples if found[e.id]["right"]]
        if stage.keep_locate < 1:
            wanted = round(len(self.items) * stage.keep_locate / (1 - stage.keep_locate))
        else:
            self.items, wanted = [], len(verified)
        rng = random.Random(seed)
        self.items += rng.sample(verified, min(wanted, len(verified)))
        if not self.items:
            raise HartError(
                "sft: keep_locate = 1 and the policy was never right, so there is no row; lower keep_locate"
            )
        rng.shuffle(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Tokens:
        kind, example, entry = self.items[i]
        if kind == "locate":
            return locate_row(self.runner, example, entry["said"])
        return answer_row(self.runner, example, entry["said"], self.stage)


class Collator:
    """Row numbers -> what the model's own forward takes, with labels on the answer tokens only; the numbers come along
    as `rows`."""

    def __init__(self, family: Family, rows: SFTRows) -> None:
        self.family, self.rows = family, rows

    def __call__(self, numbers: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        sequences = [self.rows[item["row"]] for item in numbers]
        batch = self.family.collate(sequences)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for n, tokens in enumerate(sequences):
            for span in tokens.sampled:
                labels[n, span.start : span.stop] = torch.tensor(tokens.ids[span.start : span.stop])
        return batch | {"labels": labels, ROWS: torch.tensor([item["row"] for item in numbers])}


class SFTStageTrainer(SealedCheckpoints, Guarded, SFTTrainer):
    """trl.SFTTrainer over rows that are already tokens: loss (8) of the paper, the mean over answer tokens.

    `number` is the stage's place in the recipe.
    """

    def __init__(self, runner: Runner, rows: SFTRows, args: SFTConfig, number: int = 0, **kwargs) -> None:
        self.adapters = adapters = runner.policy.adapter_parameters
        self.scale = gradient_scale(runner.policy.model.get_input_embeddings().weight.dtype)
        self.budget = Budget(f"stages.{number}.micro_batch_size", args.per_device_train_batch_size)
        self.standing = Standing([self.budget, runner.engine.budget])
        self._figures: dict[str, float] = {}
        self._read: list[list[int]] = []  # of the step under way: the rows of each micro-batch, and its loss
        self._losses: list[torch.Tensor] = []
        kept = [p.detach().clone() for p in adapters]
        super().__init__(
            model=runner.policy.peft,
            args=args,
            train_dataset=Dataset.from_dict({"row": range(len(rows))}),
            data_collator=Collator(runner.policy.family, rows),
            processing_class=runner.policy.family.tokenizer,
            **kwargs,
        )
        self.add_callback(self.standing)
        # Qwen2.5-VL says it takes no loss arguments, so the mean would be one of micro-batches, in which a token of a
        # short answer weighs more. TRL computes the loss itself and only needs the token count of the whole batch.
        self.model_accepts_loss_kwargs = True
        # TRL casts the adapters of a 4-bit base to bfloat16, which a T4 does not have and which rounds the updates.
        for parameter, original in zip(adapters, kept, strict=True):
            parameter.data = original

    def create_model_card(self, *args, **kwargs) -> None:
        """No card beside each checkpoint: the run directory says what it is."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, **self._figures}, start_time)
        self._figures = {}

    def compute_loss(self, *args, **kwargs) -> torch.Tensor:
        """As it is, but scaled up in the backward pass: what is logged stays true."""
        loss = super().compute_loss(*args, **kwargs)
        loss.register_hook(lambda gradient: gradient * self.scale)
        return loss

    # -- one step --------------------------------------------------------------------------------------------------

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """A micro-batch. The last one of a step judges the step and returns its loss; the others, and one that is not
        finite, return 0: the Trainer adds them up."""
        rows = inputs.pop(ROWS).tolist()
        if not self._read:
            self._draws = Draws(self.args.device)
        self._read.append(rows)
        # Gradients are scaled back where they arrive, so that clipping and logging see true ones.
        hooks = [p.register_hook(lambda gradient: gradient / self.scale) for p in self.adapters]
        try:
            self._losses = self._within_memory(model, inputs, num_items_in_batch)
        finally:
            for hook in hooks:
                hook.remove()
        loss = torch.stack(self._losses).sum()
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        self._judge()
        return loss if loss.isfinite() else torch.zeros_like(loss)

    def _within_memory(self, model, inputs: dict, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The losses of the step's micro-batches so far. Where memory runs out, all gradients of the step are thrown
        away, and made again from half as many rows at one time. `tokens` counts those with loss of the whole step, so
        the sum is the same however it is cut."""
        rows = self._read[-1]
        losses = within_memory(lambda: [*self._losses, self._micro_batch(model, rows, tokens, inputs)])
        while losses is None:
            self._begin_again()
            losses = within_memory(lambda: [self._micro_batch(model, rows, tokens) for rows in self._read])
        return losses

    def _micro_batch(self, model, rows: list[int], tokens: torch.Tensor, inputs: dict | None = None) -> torch.Tensor:
        """The loss of some rows, whose `inputs` may be there already; their gradients are added to those there are."""
        most, loss = self.budget.value, torch.zeros((), device=self.args.device)
        if inputs is not None and len(rows) <= most:
            return loss + super().training_step(model, inputs, tokens)
        for start in range(0, len(rows), most):
            part = self.data_collator([{"row": n} for n in rows[start : start + most]])
            del part[ROWS]
            loss = loss + super().training_step(model, part, tokens)
        return loss

    def _begin_again(self) -> None:
        """Raises `HartError` where there is nothing left to halve."""
        self.model.zero_grad(set_to_none=True)
        self._draws.again()
        self._metrics["train"].clear()  # TRL's figures of what is computed once more
        longest = max(len(self.data_collator.rows[n]) for rows in self._read for n in rows)
        less = "Lower pixels.full or pixels.crop, or set model.gradient_checkpointing=true or model.quant=nf4"
        if self.args.world_size > 1:  # they would no longer wait for each other in the same places
            raise HartError(
                f"out of memory with {self.budget.key}={self.budget.value}, which several processes cannot halve in "
                f"mid-run: set it to half. If it is 1: {less}"
            )
        if self.budget.value == 1:
            raise HartError(
                f"out of memory: a row of {longest} tokens does not fit alone ({self.budget.key} is "
                f"{self.args.per_device_train_batch_size}, halved to 1). {less}; `hart-lite plan` says what fits"
            )
        self.budget.halve(f"step {self.state.global_step + 1} of SFT")

    def _judge(self) -> None:
        """Skip the step if it went wrong, and begin the next."""
        losses = [loss.item() for loss in self._losses]
        ids = [[self.data_collator.rows.items[n][1].id for n in rows] for rows in self._read]
        spoilt = [i for of_rows, loss in zip(ids, losses, strict=True) if not math.isfinite(loss) for i in of_rows]
        skipped = self._skipped(sum(losses), spoilt, [i for of_rows in ids for i in of_rows])
        self._figures = {"skipped": float(skipped), "micro_batch_size": self.budget.value}
        if spoilt:
            self._figures["loss"] = math.nan
        self._read, self._losses = [], []
