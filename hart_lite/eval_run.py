"""Evaluate a model on benchmarks in every mode: ask, grade, write each row as it comes, go on where a kill left off.

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

from hart_lite.analysis import grounding
from hart_lite.benchmarks.base import BadRow
from hart_lite.conversation import Conversation
from hart_lite.eval_files import EvalFolder, Key, key_of
from hart_lite.eval_questions import Question, batches_by_image, read_questions
from hart_lite.eval_report import glance, own_figures, summary_text
from hart_lite.eval_settings import EvalSettings, record, setting_of
from hart_lite.findings import findings
from hart_lite.grading import grade, read_answer
from hart_lite.models import OpenModel, open_model
from hart_lite.predictions import read_evaluation
from hart_lite.protocols import registry as protocols
from hart_lite.report_eval import page_of
from hart_lite.report_page import save_page
from hart_lite.types import Box, HartError

log = logging.getLogger(__name__)
LOOKS = [mode for mode in protocols.PROTOCOLS if mode != "full"]  # modes in which the model says where it looks


@dataclass
class Report:
    """`failures`: what kept a model behind an API from answering, and how often."""

    table: str
    bad: int
    missing: int
    failures: Counter = field(default_factory=Counter)


def run_eval(spec: str, settings: EvalSettings, out: Path) -> Report:
    """Names and rows are checked before the model is loaded; whether `out` holds an evaluation that this one may go on
    with is checked after it, since the model is part of that."""
    for mode in settings.modes:
        protocols.find(mode)
    questions, bad = read_questions(settings.benchmarks, settings.limit, settings.strict)
    model = open_model(spec, quant=settings.quant, device=settings.device, frame=settings.frame)
    with EvalFolder(out, record(spec, settings, model, questions)) as folder:
        folder.write_bad(bad)
        run = _Run(settings, model, folder, bad)
        for row in folder.rows():
            run.keep(row)
        total = len(questions) * len(settings.modes)
        with tqdm(total=total, initial=len(run.done), unit="answer", desc="eval") as bar:
            for batch in batches_by_image(questions, model.engine.at_once):
                run.ask(batch, bar)
        missing = sum(run.failures.values())
        table = _summary(folder, missing, questions) if run.done else "no answers"
        return Report(table, len(bad), missing, run.failures)


def _summary(folder: EvalFolder, missing: int, questions: Sequence[Question]) -> str:
    """Writes summary.json, summary.md and report.html; returns what to print."""
    evaluation = read_evaluation(folder.folder)
    found, own = findings(evaluation), own_figures(evaluation)
    counts = {"bad_rows": len(evaluation.bad_rows), "unanswered_failures": missing}
    folder.write_summary({"benchmarks": found, "own": own} | counts, summary_text(evaluation, found, own))
    images = {(q.benchmark.name, q.example.id): q.example.images[0] for q in questions}
    save_page(folder.folder, page_of(evaluation, found, lambda row: images[row["benchmark"], row["id"]]))
    return glance(found)


@dataclass
class _Run:
    settings: EvalSettings
    model: OpenModel
    folder: EvalFolder
    bad: list[tuple[str, BadRow]]
    done: dict[Key, dict] = field(default_factory=dict)
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
        if not engine.in_company:
            pairs = [(q, mode) for q, mode in pairs if _key(q, mode) in wanted]
        if not wanted:
            return
        runs = [protocols.find(mode)(q.example, setting_of(q, mode, self.settings, self.model)) for q, mode in pairs]
        for n, conversation in engine.answer(runs):
            key = _key(*pairs[n])
            if conversation.outcome is None:
                self.failures[conversation.failure] += 1
            elif key in wanted:
                row = prediction(*pairs[n], conversation)
                self.folder.append(row)
                self.keep(row)
                bar.update()
                bar.set_postfix(self.accuracy(), refresh=False)

    def _missing(self, batch: Sequence[Question]) -> list[Key]:
        keys = (_key(question, mode) for question in batch for mode in self.settings.modes)
        return [key for key in keys if key not in self.done]

    def _readable(self, question: Question) -> bool:
        """Whether its images can be decoded, which reading the rows does not try; they are kept for the views."""
        try:
            for image in question.example.images:
                image.load()
        except HartError as error:
            if self.settings.strict:
                raise
            self.bad.append((question.benchmark.name, BadRow(question.example.id, str(error))))
            self.folder.write_bad(self.bad)
            log.warning("%s: %s", question.benchmark.name, error)
            return False
        return True

    def keep(self, row: dict) -> None:
        mode = row["mode"]
        self.done[key_of(row)] = row
        self.answered[mode] += 1
        self.right[mode] += row["strict"]

    def accuracy(self) -> dict[str, str]:
        counts = {mode: self.answered[mode] for mode in self.settings.modes if self.answered[mode]}
        return {mode: f"{self.right[mode] / count:.3f}" for mode, count in counts.items()}


def _key(question: Question, mode: str) -> Key:
    return question.benchmark.name, mode, question.example.id


def prediction(question: Question, mode: str, conversation: Conversation) -> dict:
    """A row of predictions.jsonl. Boxes are [x1, y1, x2, y2, number of the image] in original pixels."""
    example, outcome = question.example, conversation.outcome
    row = {
        "benchmark": question.benchmark.name,
        "mode": mode,
        "id": example.id,
        "category": example.category,
        "cluster": example.images[0].key,
        "question": example.question,
        "choices": list(example.choices),
        "truth": example.answer,
        "text": outcome.text,
        "answer": read_answer(outcome.text, example.choices),
        "strict": grade(outcome.text, example.answer, example.choices),
        "official": question.benchmark.official(outcome.text, example),
        "boxes": _corners(outcome.boxes),
        "truth_boxes": _corners(example.boxes),
        "turns": [vars(turn) for turn in conversation.turns],
        "counts": outcome.counts,
    }
    if example.boxes and mode in LOOKS:
        row["grounding"] = grounding(outcome.boxes, example.boxes, [image.size() for image in example.images])
    return row


def _corners(boxes: Sequence[Box]) -> list[list[float]]:
    return [[*box.xyxy, box.image] for box in boxes]
