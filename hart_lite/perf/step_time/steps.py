"""One optimizer step, five ways: stock `trl.GRPOTrainer`, and our `direct`, `mgpo`, `hart` and `hart` scored.

All share base, adapter, image, pixel budget, samples and response length; half of the samples of a question are given
a reward, so that no group is flat. A step is timed from its begin to its end, the optimizer's own part included. The
stock trainer decodes the picture before that, for every sample; ours inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import PrinterCallback, Qwen2_5_VLProcessor, TrainerCallback, TrainingArguments
from transformers.processing_utils import ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from hart_lite.config.prompts import Prompts
from hart_lite.config.schema import Recipe
from hart_lite.inference.prompts import question_text
from hart_lite.inference.rollout import Runner
from hart_lite.perf.step_time.models import Workload, alternate_rewards
from hart_lite.perf.step_time.presets import TOKEN
from hart_lite.toy.model import build_processor
from hart_lite.training.rl_trainer import RLTrainer
from hart_lite.types import Example, Group

BETA, LR = 0.01, 1e-5
PHASES = ("rollout", "reference", "update")
Laps = dict[str, float]  # seconds of a step and of its phases


class StepClock(TrainerCallback):
    """Seconds of the last optimizer step."""

    def __init__(self, work: Workload) -> None:
        self.work, self.seconds = work, 0.0

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.work.wait()
        self.seconds = -time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.work.wait()
        self.seconds += time.perf_counter()

    def laps(self, rollout: float, reference: float) -> Laps:
        """What is neither rollout nor reference is the update's, the optimizer's step included."""
        update = self.seconds - rollout - reference
        return {"step": self.seconds, "rollout": rollout, "reference": reference, "update": update}


def alternate(rewards: int) -> list[float]:
    return [float(n % 2) for n in range(rewards)]


# -- ours --------------------------------------------------------------------------------------------------------------


class RecordingTrainer(RLTrainer):
    """Keeps the groups of the last step, which were drawn once: there is nothing to draw them again for. Half of a
    group is right, however it was verified."""

    def rollout(self, examples, step, attempt=0) -> list[Group]:
        drawn = super().rollout(examples, step, attempt)
        self.groups = [replace(g, trajectories=tuple(alternate_rewards((), g.trajectories))) for g in drawn]
        return self.groups


class Ours:
    """`hart`, `mgpo` or `direct` on the workload's policy: steps of so many `questions`, in packs of the workload's
    room unless `tokens_per_pack` says another. `verify` as a recipe has it."""

    def __init__(
        self,
        work: Workload,
        loop: str,
        folder: Path,
        questions: int = 1,
        tokens_per_pack: int | None = None,
        verify: str = "sample",
    ) -> None:
        runner = work.runner
        if verify != runner.model.rollout.verify:
            rollout = runner.model.rollout.model_copy(update={"verify": verify})
            runner = Runner(replace(runner.model, rollout=rollout), runner.rewarded)
        stage = {"kind": "rl", "steps": 1, "questions_per_step": questions, "log_rollouts_every": 0, "save_every": 0}
        recipe = Recipe.model_validate(
            {
                "name": loop,
                "beta": BETA,
                "loop": loop,
                "objective": "ap_grpo" if loop == "hart" else "grpo",
                "rollout": runner.model.rollout,
                "stages": [stage | {"tokens_per_pack": tokens_per_pack or work.tokens_per_pack}],
            }
        )
        self.clock = StepClock(work)
        args = arguments(TrainingArguments, work, folder, per_device_train_batch_size=questions)
        callbacks = [self.clock]
        asked = [Example(str(n), (), "stands in until `step` is given the questions", "") for n in range(questions)]
        self.trainer = RecordingTrainer(runner, asked, recipe, recipe.stages[0], args, folder, callbacks=callbacks)
        self.trainer.remove_callback(PrinterCallback)
        self.figures: dict[str, float] = {}  # what the last step logged

    def step(self, *examples: Example) -> Laps:
        self.trainer.examples = list(examples)
        self.trainer.train()
        [self.figures] = (row for row in self.trainer.state.log_history if "seconds_rollout" in row)
        return self.clock.laps(self.figures["seconds_rollout"], self.figures["seconds_reference"])

    @property
    def groups(self) -> list[Group]:
        """Of the last step."""
        return self.trainer.groups


# -- stock -------------------------------------------------------------------------------------------------------------


class StockProcessor(Qwen2_5_VLProcessor):
    """The library's processor without its video half, which needs torchvision (transformers #48558)."""

    def __init__(self, image_processor, tokenizer, chat_template=None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


class OneCardConfig(GRPOConfig):
    """The model is on one card: where a process sees more, TRL refuses to train."""

    @property
    def n_gpu(self) -> int:
        return min(super().n_gpu, 1)


class Timed(GRPOTrainer):
    """trl.GRPOTrainer as it is, with a stopwatch around its generation and its scoring without gradient. These two are
    private methods of TRL: no public one tells the phases of its step apart."""

    work: Workload

    def _timed(self, lap: str, function: Callable, *args, **kwargs):
        self.work.wait()
        start = time.perf_counter()
        out = function(*args, **kwargs)
        self.work.wait()
        self.laps[lap] += time.perf_counter() - start
        return out

    def _generate(self, prompts):
        return self._timed("rollout", super()._generate, prompts)

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        score = super()._get_per_token_logps_and_entropies
        return score(*args, **kwargs) if torch.is_grad_enabled() else self._timed("reference", score, *args, **kwargs)

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.prompt_ids, self.completion_ids = inputs["prompt_ids"], inputs["completion_ids"]
        return super().compute_loss(model, inputs, *args, **kwargs)


class Stock:
    """trl's GRPO on `model`, a base without adapters, which it receives and keeps."""

    def __init__(self, work: Workload, model: nn.Module, folder: Path) -> None:
        preset, family, lora = work.preset, work.runner.policy.family, work.runner.policy.lora
        pixels = build_processor()
        pixels.size = {"shortest_edge": TOKEN, "longest_edge": work.runner.setting.full_pixels}
        self.clock = StepClock(work)
        self.trainer = Timed(
            model=model,
            reward_funcs=lambda prompts, **columns: alternate(len(prompts)),
            args=arguments(
                OneCardConfig,
                work,
                folder,
                per_device_train_batch_size=preset.samples,
                num_generations=preset.samples,
                max_completion_length=preset.response,
                beta=BETA,
                loss_type="grpo",
                gradient_checkpointing=preset.gradient_checkpointing,
                generation_kwargs={"min_new_tokens": preset.response, "top_k": 0},
            ),
            train_dataset=Dataset.from_list([{"prompt": ""}]),
            processing_class=StockProcessor(pixels, family.tokenizer, chat_template=family.tokenizer.chat_template),
            peft_config=LoraConfig(
                r=lora.r, lora_alpha=lora.alpha, target_modules=family.lora_targets(lora.parts), task_type="CAUSAL_LM"
            ),
            callbacks=[self.clock],
        )
        self.trainer.work = work
        self.trainer.remove_callback(PrinterCallback)

    def step(self, example: Example) -> Laps:
        prompt = [{"role": "user", "content": question_text(Prompts(), example)}]
        self.trainer.train_dataset = Dataset.from_list([{"prompt": prompt, "image": example.images[0].load()}])
        self.trainer.laps = {"rollout": 0.0, "reference": 0.0}
        self.trainer.train()
        return self.clock.laps(**self.trainer.laps)


def arguments(kind: type[TrainingArguments], work: Workload, folder: Path, **own) -> TrainingArguments:
    """Of one step that writes nothing, on the workload's device; `own` are the trainer's own."""
    return kind(
        output_dir=str(folder),
        learning_rate=LR,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=work.device.type == "cpu",
        bf16=False,
        fp16=False,
        seed=0,
        **{"max_steps": 1, "gradient_checkpointing": False} | own,
    )
