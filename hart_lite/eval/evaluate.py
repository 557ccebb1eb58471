"""Answer held-out questions in every mode, greedily, and measure where the model looked."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from hart_lite.eval.grounding import (
    grounding,
    joint_table,
    mutual_information,
    summarise_grounding,
    wrong_box_given_right,
)
from hart_lite.inference.rollout import Runner
from hart_lite.types import Example

WAYS = {"crops": "hart", "full+crops": "full+crops"}  # mode -> how turn 2 is asked


def evaluate(
    runner: Runner, examples: Sequence[Example], modes: Sequence[str], batch_size: int, title: str = "evaluate"
) -> tuple[dict, list[dict]]:
    """(summary, one row per question). Turn 1 is run once and shared by the modes that crop.

    The policy is left as it was, with its image cache empty. An example without ground-truth boxes counts for the
    answers only.
    """
    rows: list[dict] = []
    training = runner.policy.model.training
    with tqdm(total=len(examples), desc=title, unit="question", leave=False) as bar:
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            rows += _answer_batch(runner, batch, modes)
            runner.policy.forget_images()
            bar.update(len(batch))
            bar.set_postfix({mode: f"{_accuracy(rows, mode):.3f}" for mode in modes})
    runner.policy.model.train(training)
    return summarise(rows, modes), rows


def _answer_batch(runner: Runner, batch: Sequence[Example], modes: Sequence[str]) -> list[dict]:
    located = runner.locate(batch, temperature=0, seed=0)
    answers = {
        mode: runner.answer_directly(batch, 0, 0)
        if mode == "full"
        else runner.answer_from(batch, located, WAYS[mode], 0, 0)
        for mode in modes
    }
    rows = []
    for n, (example, found) in enumerate(zip(batch, located, strict=True)):
        row = {
            "id": example.id,
            "category": example.category,
            "boxes": [[*box.xyxy, box.image] for box in found.boxes],
            "located": found.turn.text,
            "answers": {mode: answers[mode][n].answer for mode in modes},
            "right": {mode: answers[mode][n].reward == 1 for mode in modes},
        }
        if example.boxes:
            row["grounding"] = grounding(found.boxes, example.boxes, [i.size() for i in example.images])
        rows.append(row)
    return rows


def summarise(rows: Sequence[dict], modes: Sequence[str]) -> dict:
    """Accuracy in each mode, valid-box share, and over the rows that have boxes the grounding table."""
    summary: dict = {
        "questions": len(rows),
        "accuracy": {mode: _accuracy(rows, mode) for mode in modes},
        "valid_box": sum(bool(row["boxes"]) for row in rows) / len(rows),
    }
    boxed = [row for row in rows if "grounding" in row]
    if boxed:
        summary["grounding"] = summarise_grounding([row["grounding"] for row in boxed])
        summary["joint"] = {}
        for mode in modes:
            table = joint_table((row["right"][mode] for row in boxed), (row["grounding"]["grounded"] for row in boxed))
            summary["joint"][mode] = {
                "counts": table,
                "wrong_box_given_right": wrong_box_given_right(table),
                "mutual_information": mutual_information(table),
            }
    return summary


def _accuracy(rows: Sequence[dict], mode: str) -> float:
    return sum(row["right"][mode] for row in rows) / len(rows)
