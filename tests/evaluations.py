"""Synthetic evaluations in the real layout: a `Model` says for every question what it answers and where it looks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hart_lite.eval.grounding import grounding
from hart_lite.eval.prediction import Prediction, read_prediction
from hart_lite.types import Box

SIZE = (1000, 800)
SETTINGS = {
    "model": "runs/small",
    "family": "qwen2_5_vl",
    "benchmarks": {"treebench": "TreeBench.tsv"},
    "modes": ["crops"],
    "pixels": {"full": 1003520, "crop": 501760, "min": 3136},
    "prompt": "official",
    "decoding": {"temperature": 0},
    "seed": 0,
    "versions": {"torch": "2.13.0", "grader": "1"},
    "as_published": False,
}


@dataclass(frozen=True)
class Question:
    number: int
    truth: str
    target: Box
    category: str = "Perception/OCR"

    @property
    def cluster(self) -> str:
        """Two questions about each image."""
        return f"image-{self.number // 2}"


Model = Callable[[Question], tuple[str | None, Sequence[Box]]]


def questions(n: int, seed: int = 0, categories: Sequence[str] = ("Perception/OCR",)) -> list[Question]:
    """Four choices, each right equally often; a small target somewhere in the image."""
    rng = random.Random(seed)
    out = []
    for i in range(n):
        x, y = rng.uniform(0, SIZE[0] - 100), rng.uniform(0, SIZE[1] - 80)
        out.append(Question(i, "ABCD"[i % 4], Box(x, y, x + 100, y + 80), categories[i % len(categories)]))
    return out


def always_a(question: Question) -> tuple[str, list[Box]]:
    return "A", somewhere(question)


def whole_image(question: Question) -> tuple[str, list[Box]]:
    return "ABCD"[question.number * 7 // 3 % 4], [Box(0, 0, *SIZE)]


def right_from_anywhere(question: Question) -> tuple[str, list[Box]]:
    return question.truth, somewhere(question)


def sound(question: Question) -> tuple[str, list[Box]]:
    """Looks right at nine questions in ten and then answers right; else guesses the next letter."""
    if random.Random(question.number).random() < 0.9:
        return question.truth, [question.target]
    return other_letter(question), somewhere(question)


def blind(question: Question) -> tuple[None, list[Box]]:
    return None, []


def somewhere(question: Question) -> list[Box]:
    rng = random.Random(f"somewhere {question.number}")
    x, y = rng.uniform(0, SIZE[0] - 120), rng.uniform(0, SIZE[1] - 100)
    return [Box(x, y, x + 120, y + 100)]


def elsewhere(question: Question) -> list[Box]:
    """A box that does not touch the target: in the other half of the image."""
    left = 0 if question.target.x1 >= SIZE[0] / 2 - 50 else SIZE[0] - 100
    return [Box(left, 0, left + 100, 80)]


def other_letter(question: Question) -> str:
    return "ABCD"[("ABCD".index(question.truth) + 1) % 4]


def rows_of(
    asked: Iterable[Question], model: Model, benchmark: str = "treebench", mode: str = "crops", boxed: bool = True
) -> list[dict]:
    """`boxed`: the benchmark has ground-truth boxes. The official scorer takes no answer for A."""
    out = []
    for question in asked:
        answer, boxes = model(question)
        row = {
            "benchmark": benchmark,
            "mode": mode,
            "id": str(question.number),
            "category": question.category,
            "cluster": question.cluster,
            "question": f"What is written on sign {question.number}?",
            "choices": ["STOP", "SLOW", "EXIT", "OPEN"],
            "truth": question.truth,
            "text": f"The answer is {answer}." if answer else "I cannot tell.",
            "answer": answer,
            "strict": answer == question.truth,
            "official": (answer or "A") == question.truth,
            "boxes": [box.to_list() for box in boxes],
            "truth_boxes": [],
            "turns": [{"kind": "verify", "text": "..", "prompt_tokens": 500, "response_tokens": 12, "images": 1}],
            "counts": {"rejected_boxes": 0},
        }
        if boxed:
            row["truth_boxes"] = [[*question.target.xyxy, 0]]
            row["grounding"] = grounding(boxes, [question.target], [SIZE]).model_dump()
        out.append(row)
    return out


def typed(rows: Iterable[dict]) -> list[Prediction]:
    return [read_prediction(row, "a row by hand") for row in rows]


def write_evaluation(folder: Path, rows: Sequence[dict], **settings) -> Path:
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text(json.dumps(SETTINGS | settings), encoding="utf-8")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(lines, encoding="utf-8")
    return folder
