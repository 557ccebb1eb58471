"""One stage of a recipe: its trainer with the callbacks, its checkpoints, and the adapter that it leaves."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from hart_lite.config.schema import Recipe
from hart_lite.config.sections import DistilStage, RLStage, SFTStage
from hart_lite.errors import HartError
from hart_lite.inference.rollout import Runner
from hart_lite.inference.scoring import check_scorable
from hart_lite.runs.checkpoints import newest_checkpoint, step_of
from hart_lite.runs.layout import ADAPTER, METRICS, ROLLOUTS, STAGES, TIMING
from hart_lite.runs.metrics_file import rewind_metrics, rows_by_stage
from hart_lite.runs.run_dir import save_adapter
from hart_lite.runs.splits import Splits
from hart_lite.runs.time_left import read_timing, seconds_left
from hart_lite.training.best_weights import BestWeights
from hart_lite.training.callbacks import (
    AtSteps,
    Enough,
    LiveProgress,
    MetricsFile,
    StopAfterStep,
    WarnWithoutSignal,
    step_in_words,
)
from hart_lite.training.checkpointing import train_from
from hart_lite.training.distil_trainer import DistilTrainer
from hart_lite.training.evaluation import RunEvaluator
from hart_lite.training.question_order import QuestionOrder
from hart_lite.training.rl_trainer import RLTrainer
from hart_lite.training.sample_tracking import SampleTracker, quarters
from hart_lite.training.sft_data import SFTRows, locate_once
from hart_lite.training.sft_trainer import SFTStageTrainer, sft_steps
from hart_lite.training.signals import Stop
from hart_lite.training.step_trainer import StepTrainer
from hart_lite.training.trackers import OURS, Track
from hart_lite.types import Example

log = logging.getLogger(__name__)


class Stage:
    """One stage of a recipe and its folder in the run directory."""

    def __init__(self, recipe: Recipe, index: int, run: Path, stop: Stop | None = None) -> None:
        self.recipe, self.spec, self.run, self.index = recipe, recipe.stages[index], run, index
        self.stop = stop or Stop(run)
        self.name = f"{index + 1}-{self.spec.kind}"
        self.folder = run / STAGES / self.name
        self.adapter = self.folder / ADAPTER
        self.best = BestWeights(recipe.evaluate, run, self.name, self.folder) if recipe.evaluate.keep_best else None

    @property
    def done(self) -> bool:
        return self.adapter.is_dir()

    def _examples(self, splits: Splits) -> list[Example]:
        return splits.rl if isinstance(self.spec, RLStage) else splits.sft

    def check(self, splits: Splits) -> None:
        if not self._examples(splits):
            raise HartError(
                f"stage {self.name} has no questions: data.rl_size = {self.recipe.data.rl_size} left none for it "
                "(questions on one image stay together); lower data.rl_size, or give data.sft"
            )
        if isinstance(self.spec, SFTStage):
            return
        ids = [example.id for example in self._examples(splits)]
        QuestionOrder(len(ids), self.spec.questions_per_step, self.recipe.seed, ids)  # raises if these are too few
        if isinstance(self.spec, RLStage) and self.recipe.rollout.scores_answers:
            check_scorable(splits.rl)
        processes = PartialState().num_processes
        if self.spec.questions_per_step % processes:
            raise HartError(
                f"stage {self.name}: questions_per_step does not divide by {processes} processes; make it a multiple"
            )

    def run_on(self, runner: Runner, splits: Splits, evaluator: RunEvaluator, tracker: SampleTracker) -> None:
        """Train, from the newest checkpoint where there is one, and save the adapter."""
        self.folder.mkdir(parents=True, exist_ok=True)
        trainer = self.trainer(runner, self._examples(splits), evaluator)
        if isinstance(self.spec, RLStage):
            at = quarters(self.spec.steps)
            trainer.add_callback(AtSteps(at.__contains__, lambda n: tracker.record(self._during(n)), self.stop))
        processes = PartialState()
        with processes.main_process_first():  # it clears away what is damaged
            checkpoint = newest_checkpoint(self.folder)
        step = step_of(checkpoint) if checkpoint else 0
        if processes.is_main_process:
            rewind_metrics(self.run / METRICS, self.name, step)
            if evaluator.trackers:
                evaluator.trackers.begin(self.name, step)
        if checkpoint:
            log.info("stage %s continues from step %d", self.name, step)
        for unwanted in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(unwanted)
        with self.stop.noting(), closing(self.live):
            try:
                train_from(trainer, checkpoint)
            except Enough:
                log.info("stage %s had ended there", self.name)
            if trainer.state.global_step < trainer.state.max_steps:
                self.stop.check()
            if self.best:
                self._take_best(trainer.state.global_step, runner, evaluator)
            save_adapter(runner.policy, self.adapter)
            if self.best:
                self.best.clear()

    def _take_best(self, last: int, runner: Runner, evaluator: RunEvaluator) -> None:
        """The last step is judged as those along the way were."""
        with self.stop.at_once():
            self._evaluate(evaluator, last)
        self.best.keep(last, runner.policy)
        step = self.best.restore(last, runner.policy)
        log.info("stage %s: kept step %d, the best of %d by %s", self.name, step, last, self.recipe.evaluate.keep_best)

    def trainer(self, runner: Runner, examples: Sequence[Example], evaluator: RunEvaluator | None) -> StepTrainer:
        """The stage's trainer with its callbacks; an evaluator is needed where the recipe evaluates along the way."""
        make = {"rl": self._rl_trainer, "sft": self._sft_trainer, "distil": self._distil_trainer}[self.spec.kind]
        trainer = make(runner, examples)
        steps = MetricsFile(self.run / METRICS, self.name)
        trainer.add_callback(steps)
        trainer.add_callback(WarnWithoutSignal(steps))
        self.live = LiveProgress(self.name, lambda metrics: step_in_words(metrics, self._seconds_left(steps.rows)))
        trainer.add_callback(self.live)
        if evaluator and evaluator.trackers:
            trainer.add_callback(Track(evaluator.trackers))
        trainer.add_callback(StopAfterStep(self.stop))  # first: after it, what is due is left to the resumed run
        every = self.recipe.evaluate.every
        if every:
            evaluate = partial(self._evaluate, evaluator)
            keep = partial(self._keep, runner)
            trainer.add_callback(AtSteps(lambda step: step % every == 0, evaluate, self.stop, keep))
        return trainer

    def _seconds_left(self, rows: Sequence[dict]) -> float | None:
        """Until the whole run is finished; `rows` are its metrics so far."""
        return seconds_left(self.recipe, rows_by_stage(self.recipe, rows), read_timing(self.run / TIMING))

    def _during(self, step: int) -> str:
        return f"during-{self.name}-{step:05d}"

    def _keep(self, runner: Runner, step: int) -> bool:
        return self.best is not None and self.best.keep(step, runner.policy)

    def _evaluate(self, evaluator: RunEvaluator, step: int) -> None:
        evaluator.evaluate(self._during(step), f"{self.folder}, step {step}")

    def _rl_trainer(self, runner: Runner, examples: Sequence[Example]) -> RLTrainer:
        spec: RLStage = self.spec
        folder = self.folder / ROLLOUTS
        return RLTrainer(runner, examples, self.recipe, spec, self._arguments(spec.steps), folder, self.index)

    def _sft_trainer(self, runner: Runner, examples: Sequence[Example]) -> SFTStageTrainer:
        spec: SFTStage = self.spec
        if spec.steps:  # no more than the stage will read
            order = sorted(examples, key=lambda e: e.id)
            examples = random.Random(self.recipe.seed).sample(order, min(spec.steps * spec.batch_size, len(order)))
        rows = SFTRows(runner, examples, self._located(runner, examples), spec, self.recipe.seed)
        args = self._arguments(sft_steps(len(rows), spec))
        return SFTStageTrainer(runner, rows, spec, args, self.index)

    def _distil_trainer(self, runner: Runner, examples: Sequence[Example]) -> DistilTrainer:
        spec: DistilStage = self.spec
        located = self._located(runner, examples)
        args = self._arguments(spec.steps)
        return DistilTrainer(runner, examples, located, self.recipe, spec, args, self.index)

    def _located(self, runner: Runner, examples: Sequence[Example]) -> dict[str, dict]:
        with PartialState().main_process_first():
            return locate_once(runner, examples, self.folder / "located.json")

    def _arguments(self, steps: int) -> TrainingArguments:
        spec = self.spec
        return TrainingArguments(
            max_steps=steps,
            output_dir=str(self.folder),
            learning_rate=spec.lr,
            lr_scheduler_type=spec.lr_scheduler,
            warmup_steps=spec.warmup_steps,
            weight_decay=spec.weight_decay,
            max_grad_norm=spec.max_grad_norm,
            save_strategy="steps" if spec.save_every else "no",
            save_steps=spec.save_every or 1,
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to=[name for name in self.recipe.report_to if name not in OURS] or "none",
            run_name=f"{self.recipe.name}-{self.name}",
            seed=self.recipe.seed,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            use_cpu=self.recipe.model.device == "cpu",
            # The policy computes in the precision it was loaded in, and checkpointing is switched on in its model.
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
        )
