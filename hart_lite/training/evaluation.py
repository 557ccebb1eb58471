"""What training measures of its held-out questions: ordinary evaluations, in RUN/evaluation/NAME."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from hart_lite.config.schema import Recipe
from hart_lite.eval.benchmarks import held_out
from hart_lite.eval.evaluator import evaluate
from hart_lite.eval.questions import Question
from hart_lite.eval.results import is_finished, read_evaluation
from hart_lite.eval.run_summary import run_metrics, run_summary_table
from hart_lite.eval.settings import EvalSettings
from hart_lite.inference.load import OpenModel
from hart_lite.runs.layout import BEFORE, EVALUATION, SUMMARY, TIMING
from hart_lite.training.trackers import Trackers
from hart_lite.types import Example
from hart_lite.utils.files import write_whole
from hart_lite.utils.jsonl import append_jsonl
from hart_lite.utils.phase import begin_phase


class RunEvaluator:
    """Evaluates the policy of a run on `examples`, each time into a folder of its own."""

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        model: OpenModel,
        examples: Sequence[Example],
        trackers: Trackers | None = None,
    ) -> None:
        self.run, self.model, self.trackers = run, model, trackers
        self.questions = [Question(held_out.BENCHMARK, example) for example in examples]
        benchmarks = {held_out.BENCHMARK.name: str(run)}
        self.settings = EvalSettings(benchmarks=benchmarks, modes=tuple(recipe.evaluate.modes))

    def evaluate(self, name: str, spec: str) -> None:
        """Once per name: a resumed run keeps what was measured, and finishes what was begun. `spec` names the model as
        it is now, for people."""
        if not self.questions:
            return
        begin_phase("evaluation")
        target = self.run / EVALUATION / name
        with PartialState().main_process_first():  # the others find it finished and go on
            if not is_finished(target):
                policy = self.model.engine.policy
                training, begun = policy.model.training, time.perf_counter()
                evaluate(self.model, spec, self.settings, self.questions, target, title=name)
                policy.model.train(training)
                append_jsonl(self.run / TIMING, {"evaluation": name, "seconds": time.perf_counter() - begun})
                if self.trackers:
                    self.trackers.evaluation(read_evaluation(target), self.questions)


def failed_before_training(run: Path) -> set[str]:
    """Ids of the held-out questions that went wrong before training: the box where there is ground truth, else the
    answer in every mode. Empty where nothing was measured."""
    folder = run / EVALUATION / BEFORE
    if not is_finished(folder):
        return set()
    wrong: dict[str, bool] = {}
    for row in read_evaluation(folder).rows:
        right = row.grounding.grounded if row.grounding else row.strict and not row.truth_boxes
        wrong[row.id] = wrong.get(row.id, True) and not right
    return {id for id, every in wrong.items() if every}


def summarise(run: Path, names: Sequence[str]) -> dict[str, dict]:
    """{name: figures} of the evaluations that there are, also written to RUN/summary.json and summary.md."""
    begin_phase("summary")
    folders = [run / EVALUATION / name for name in names]
    summary = {folder.name: run_metrics(read_evaluation(folder)) for folder in folders if is_finished(folder)}
    write_whole(run / SUMMARY, json.dumps(summary, indent=2) + "\n")
    write_whole(run / "summary.md", run_summary_table(summary) + "\n")
    return summary
