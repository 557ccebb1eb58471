"""Evaluate a model in every mode: ask, grade, write each row as it comes, go on where a kill left off.

The questions on one image are asked together, in all modes. A batch follows from the questions alone: one that was
begun is asked again whole, and only the rows that are missing are written, so that a resumed evaluation ends in the
rows of an unbroken one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from hart_lite.errors import DataError
from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.eval.grounding import grounding
from hart_lite.eval.metrics import metrics
from hart_lite.eval.prediction import Key, Prediction, TurnText
from hart_lite.eval.questions import Question, batches_by_image, read_questions
from hart_lite.eval.results import EvalFolder, read_evaluation
from hart_lite.eval.settings import EvalSettings, record, setting_of
from hart_lite.eval.summary import benchmark_scores, no_box_notes, summary_table, summary_text
from hart_lite.grading import grade, read_answer
from hart_lite.inference.engine import Conversation
from hart_lite.inference.load import OpenModel, open_model
from hart_lite.inference.protocols import registry as protocols
from hart_lite.utils.progress import progress

log = logging.getLogger(__name__)
GROUNDED_MODES = [mode for mode in protocols.PROTOCOLS if mode != "full"]  # in which the model says where it looks


@dataclass
class EvalResult:
    """`failures`: what kept a model behind an API from answering, and how often; `notes`: what to know of the table."""

    folder: Path
    table: str
    bad: int
    missing: int
    failures: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def evaluate_benchmarks(
    model: OpenModel | str | Path, settings: EvalSettings, out: Path, base_path: Path | None = None
) -> EvalResult:
    """Evaluate a model, opened or to be opened, on the benchmarks of `settings`, into the folder `out`. `base_path`:
    see `open_model`.

    Names and rows are checked before a model is loaded; whether `out` holds an evaluation that this one may go on with
    is checked after it, since the model is part of that.
    """
    for mode in settings.modes:
        protocols.find(mode)
    questions, bad = read_questions(settings.benchmarks, settings.limit, settings.strict, settings.columns)
    if not isinstance(model, OpenModel):
        model = open_model(
            str(model),
            quant=settings.quant,
            device=settings.device,
            box_format=settings.box_format,
            family=settings.family,
            base_path=base_path,
        )
    return evaluate(model, model.name, settings, questions, out, bad)


def evaluate(
    model: OpenModel,
    spec: str,
    settings: EvalSettings,
    questions: Sequence[Question],
    out: Path,
    bad: Sequence[tuple[str, BadRow]] = (),
    title: str = "eval",
) -> EvalResult:
    """Ask all `questions` in all modes of `settings`, into the folder `out`. `spec` is what the model is called there;
    `bad` are rows that were left out, each with the name of its benchmark."""
    with EvalFolder(out, record(spec, settings, model, questions)) as folder:
        run = _Run(settings, model, folder, list(bad))
        folder.write_bad(run.bad)
        for row in folder.rows():
            run.keep(row)
        total = len(questions) * len(settings.modes)
        with progress(total=total, initial=len(run.done), unit="answer", desc=title, leave=False) as bar:
            for batch in batches_by_image(questions, model.engine.max_batch):
                run.ask(batch, bar)
        missing = sum(run.failures.values())
        table, notes = _summarise(folder, missing) if run.done else ("no answers", [])
        return EvalResult(out, table, len(run.bad), missing, run.failures, notes)


def _summarise(folder: EvalFolder, missing: int) -> tuple[str, list[str]]:
    """Writes summary.json and summary.md; returns what to print: the table, and what to know of it."""
    evaluation = read_evaluation(folder.folder)
    found, own = metrics(evaluation), benchmark_scores(evaluation)
    counts = {"bad_rows": len(evaluation.bad_rows), "unanswered_failures": missing}
    folder.write_summary({"benchmarks": found, "own": own} | counts, summary_text(evaluation, found, own))
    return summary_table(found), no_box_notes(found)


@dataclass
class _Run:
    settings: EvalSettings
    model: OpenModel
    folder: EvalFolder
    bad: list[tuple[str, BadRow]]
    done: dict[Key, Prediction] = field(default_factory=dict)
    answered: Counter = field(default_factory=Counter)  # by mode
    right: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)

    def ask(self, batch: Sequence[Question], bar: tqdm) -> None:
        """Answer what is missing of a batch."""
        if not self._missing(batch):
            return
        batch = [question for question in batch if self._readable(question)]
        engine, wanted = self.model.engine, set(self._missing(batch))
        pairs = [(q, mode) for q in batch for mode in self.settings.modes]
        if not engine.batch_dependent:
            pairs = [(q, mode) for q, mode in pairs if _key(q, mode) in wanted]
        if not wanted:
            return
        runs = [protocols.find(mode)(q.example, setting_of(q, mode, self.settings, self.model)) for q, mode in pairs]
        for n, conversation in engine.answer(runs):
            if conversation.outcome is None:
                self.failures[conversation.failure] += 1
            elif _key(*pairs[n]) in wanted:
                row = prediction(*pairs[n], conversation)
                self.folder.append(row)
                self.keep(row)
                bar.update()
                bar.set_postfix(self.accuracy(), refresh=False)
        engine.forget_images()

    def _missing(self, batch: Sequence[Question]) -> list[Key]:
        keys = (_key(question, mode) for question in batch for mode in self.settings.modes)
        return [key for key in keys if key not in self.done]

    def _readable(self, question: Question) -> bool:
        """Whether its images can be decoded, which reading the rows does not try; they are kept for the views."""
        try:
            for image in question.example.images:
                image.load()
        except DataError as error:
            if self.settings.strict:
                raise
            self.bad.append((question.benchmark.name, BadRow(question.example.id, str(error))))
            self.folder.write_bad(self.bad)
            log.warning("%s: %s", question.benchmark.name, error)
            return False
        return True

    def keep(self, row: Prediction) -> None:
        self.done[row.key] = row
        self.answered[row.mode] += 1
        self.right[row.mode] += row.strict

    def accuracy(self) -> dict[str, str]:
        counts = {mode: self.answered[mode] for mode in self.settings.modes if self.answered[mode]}
        return {mode: f"{self.right[mode] / count:.3f}" for mode, count in counts.items()}


def _key(question: Question, mode: str) -> Key:
    return question.benchmark.name, mode, question.example.id


def prediction(question: Question, mode: str, conversation: Conversation) -> Prediction:
    example, outcome = question.example, conversation.outcome
    official = question.benchmark.official
    looked = example.boxes and mode in GROUNDED_MODES
    turns = [TurnText(**{name: getattr(turn, name) for name in TurnText.model_fields}) for turn in conversation.turns]
    return Prediction(
        benchmark=question.benchmark.name,
        mode=mode,
        id=example.id,
        category=example.category,
        cluster=example.images[0].key,
        question=example.question,
        choices=list(example.choices),
        truth=example.answer,
        text=outcome.text,
        answer=read_answer(outcome.text, example.choices),
        strict=grade(outcome.text, example.answer, example.choices),
        official=official(outcome.text, example),
        boxes=list(outcome.boxes),
        truth_boxes=list(example.boxes),
        turns=turns,
        counts=outcome.counts,
        grounding=grounding(outcome.boxes, example.boxes, [i.size() for i in example.images]) if looked else None,
    )
