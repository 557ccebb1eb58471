"""Rows of data sets, of other layouts and of benchmarks."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from pathlib import Path

from hart_lite.data.dataset import checked
from hart_lite.data.rows import Row
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.choices import from_question, from_text, lines
from hart_lite.eval.benchmarks.registry import BENCHMARKS
from hart_lite.types import Example
from tests.reliability.fuzz_samples import png, text_of

ROW = {"id": 7, "image": "a.png", "question": "What is it?", "choices": ["cat", "dog"], "answer": "B"}
ROWS = (
    ROW | {"boxes": [[0, 0, 20, 16], [1.5, 2, 3, 4]], "category": "ocr"},
    {"images": ["a.png", "b.png"], "question": "Which?", "answer": "the left", "boxes": [[0, 0, 24, 16, 1]]},
)
CONVERSATION = {
    "id": "1",
    "image": "a.png",
    "conversations": [
        *({"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A car."}),
        *({"from": "human", "value": "And?"}, {"from": "gpt", "value": "No."}),
    ],
}
MESSAGES = {
    "images": ["a.png"],
    "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "x"}],
}
MGPO = {"image": "a.png", "question": "Q?", "choices": "(A) x\n(B) y", "reward_model": {"ground_truth": "A"}, "id": 3}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 9.5], "question": "What?", "answer": "x"},
        {"id": 6, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 9], "captions": ["a", "b"], "answer": "y"},
    ],
    "categories": [{"id": 2, "name": "cat"}],
}
MME = {
    "Question_id": "Perception/Autonomous_Driving/Objects_Identify/0001",
    "Image": "a.png",
    "Text": "What is to the left?",
    "Answer choices": ["(A) A bus", "(B) A truck", "(C) A tree", "(D) Nothing", "(E) No such object."],
    "Ground truth": "B",
    "Subtask": "Autonomous_Driving",
    "Task": "Perception",
}
VSTAR = {
    "image": "a.png",
    "text": "What is it made of?\n(A) rubber\n(B) cotton\nAnswer with the option's letter.",
    "category": "direct_attributes",
    "label": "B",
    "question_id": "0",
}
BESIDE = {"target_object": ["x"], "bbox": [[2, 1, 10, 4]], "question": "What?", "options": ["of wood", "of tin"]}
VISCOT = {"img_path": "a.png", "expression": "Who?", "bbox": [1, 2, 9, 9], "height": 16, "width": 24, "question_id": 0}
TOLD = {
    "question_id": 0,
    "image": ["a.png"],
    "conversations": [{"from": "human", "value": "<image>\nWho? Please provide the bounding box of"}] * 3
    + [{"from": "gpt", "value": "Ann"}],
}
CSV = b'id,image,question,choices,answer,category\n1,a.png,"What, then?",cat|dog,A,x\n2,a.png,Who?,,Ann,\n'


def _tsv(**cells: object) -> bytes:
    return ("\t".join(cells) + "\n" + "\t".join(map(str, cells.values())) + "\n").encode()


_CELL = base64.b64encode(png()).decode()
_LETTERS = {"A": "red", "B": "blue", "C": "green", "D": "white"}
_OPTIONS = {"multi-choice options": '"A. red\nB. blue"', "target_instances": "[[1, 2, 9, 9]]"}
TABLES = {
    "treebench": _tsv(index=0, image=_CELL, question="What?", answer="A", category="Perception/OCR", **_OPTIONS),
    "hrbench4k": _tsv(
        index=0, question="What?", answer="A", category="single", **_LETTERS, cycle_category=0, image=_CELL
    ),
    "mmstar": _tsv(index=0, question="What? Options: A: x, B: y", image=_CELL, answer="B", category="math"),
}


def _images(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png())


def rows_by(folder: Path, name: str, rows: Callable[[str], Iterable[Row]]) -> Callable[[bytes], None]:
    """A layout's rows, read and checked as training and `hart-lite data convert` check them."""
    path = folder / name
    _images(folder)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for where, result in checked(iter(rows(str(path)))):
            assert isinstance(where, str) and isinstance(result, Example | HartError)
            str(result)

    return read


def benchmark(folder: Path, name: str, file: str, source: str = "") -> Callable[[bytes], None]:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    _images(path.parent)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for row in BENCHMARKS[name].read(str(folder / source) if source else str(path)):
            if isinstance(row, Example):
                BENCHMARKS[name].prompt(row)
                for image in row.images:
                    image.load()

    return read


def read_choices(data: bytes) -> None:
    for reader in (from_text, from_question):
        try:
            reader(text_of(data))
        except HartError:
            continue
    lines(text_of(data))
