"""Stage 2: supervised fine-tuning with the full image in sight, on trl.SFTTrainer.

The crops come from the stage-1 policy, greedily and once. A share of the rows repeats a box that led that policy to a
right answer from the crops alone: self-verified, so still free of annotation. Prompts are those of the loops.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from hart_lite import loops
from hart_lite.checkpoints import SealedCheckpoints
from hart_lite.families.base import Family
from hart_lite.files import write_whole
from hart_lite.losses import gradient_scale
from hart_lite.recipe_schema import SFTStage
from hart_lite.rollout import Runner
from hart_lite.types import Box, Example, HartError, Tokens

log = logging.getLogger(__name__)
IGNORED = -100  # label of a token without loss, as transformers has it


def locate_once(runner: Runner, examples: Sequence[Example], cache: Path, batch_size: int) -> dict[str, dict]:
    """Where the policy looks, greedily, and whether it is right from there: {example id: {boxes, said, right}}.

    `said` is the first turn as it was sampled, in ids.

    Written to `cache` when complete and read from there afterwards, since training changes the policy.
    """
    if cache.exists():
        found = json.loads(cache.read_text(encoding="utf-8"))
        if found.keys() != {example.id for example in examples}:
            raise HartError(f"{cache} is about other questions: the data changed since the run began; start a new run")
        return found
    found = {}
    for start in tqdm(range(0, len(examples), batch_size), desc="locate for SFT", unit="batch", leave=False):
        batch = examples[start : start + batch_size]
        for example, t in zip(batch, runner.run(batch, "hart", temperature=0, seed=0), strict=True):
            boxes = [[*box.xyxy, box.image] for box in t.boxes]
            found[example.id] = {"boxes": boxes, "said": list(t.turns[0].response), "right": t.reward == 1}
        runner.policy.forget_images()
    write_whole(cache, json.dumps(found))
    return found


def answer_row(runner: Runner, example: Example, boxes: Sequence[Box], stage: SFTStage) -> Tokens:
    """The question with the full image, and its answer as the sampled span (the only tokens with loss)."""
    family, full = runner.policy.family, runner.full_views(example)
    if stage.context == "full":
        content = loops.direct_content(example, full)
    else:
        content = loops.with_crops_content(example, full, [runner.crop_view(example, box) for box in boxes])
    return family.chat(content) + Tokens.response(family.response_ids(loops.target_text(example, stage.target)))


def locate_row(runner: Runner, example: Example, said: Sequence[int]) -> Tokens:
    """(I_f, question) -> the turn whose boxes earned the reward, word for word."""
    family = runner.policy.family
    prompt = family.chat(loops.locate_content(example, runner.full_views(example), family))
    return prompt + Tokens.response(tuple(said))


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
        boxes = [Box(*corners[:4], image=int(corners[4])) for corners in entry["boxes"]]
        return answer_row(self.runner, example, boxes, self.stage)


class Collator:
    """Row numbers -> what the model's own forward takes, with labels on the answer tokens only."""

    def __init__(self, family: Family, rows: SFTRows) -> None:
        self.family, self.rows = family, rows

    def __call__(self, numbers: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        sequences = [self.rows[item["row"]] for item in numbers]
        batch = self.family.collate(sequences)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for n, tokens in enumerate(sequences):
            for start, stop in tokens.sampled:
                labels[n, start:stop] = torch.tensor(tokens.ids[start:stop])
        return batch | {"labels": labels}


class SkipNonFinite(TrainerCallback):
    """A gradient that is not finite takes no step: one overflow in half precision would spoil the adapter for good."""

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        if not all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None):
            optimizer.zero_grad()
            log.warning("step %d is skipped: its gradient is not finite", state.global_step + 1)


class SFTStageTrainer(SealedCheckpoints, SFTTrainer):
    """trl.SFTTrainer over rows that are already tokens: loss (8) of the paper, the mean over answer tokens."""

    def __init__(self, runner: Runner, rows: SFTRows, args: SFTConfig, **kwargs) -> None:
        self.adapters = adapters = runner.policy.adapter_parameters
        self.scale = gradient_scale(runner.policy.model.get_input_embeddings().weight.dtype)
        kept = [p.detach().clone() for p in adapters]
        super().__init__(
            model=runner.policy.peft,
            args=args,
            train_dataset=Dataset.from_dict({"row": range(len(rows))}),
            data_collator=Collator(runner.policy.family, rows),
            processing_class=runner.policy.family.tokenizer,
            callbacks=[SkipNonFinite()],
            **kwargs,
        )
        # Qwen2.5-VL says it takes no loss arguments, so the mean would be one of micro-batches, in which a token of a
        # short answer weighs more. TRL computes the loss itself and only needs the token count of the whole batch.
        self.model_accepts_loss_kwargs = True
        # TRL casts the adapters of a 4-bit base to bfloat16, which a T4 does not have and which rounds the updates.
        for parameter, original in zip(adapters, kept, strict=True):
            parameter.data = original

    def compute_loss(self, *args, **kwargs) -> torch.Tensor:
        """As it is, but scaled up in the backward pass: what is logged stays true."""
        loss = super().compute_loss(*args, **kwargs)
        loss.register_hook(lambda gradient: gradient * self.scale)
        return loss

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """Gradients are scaled back where they arrive, so that clipping and logging see true ones."""
        hooks = [p.register_hook(lambda gradient: gradient / self.scale) for p in self.adapters]
        try:
            return super().training_step(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def create_model_card(self, *args, **kwargs) -> None:
        """No card beside each checkpoint: the run directory says what it is."""
