"""The folder in which the pages' commands run: the files that they speak of, and a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import hart_lite
from hart_lite.api import TrainingRun
from hart_lite.toy.scenes import World, examples

# A recipe as shipped, 4-bit and bfloat16 included, on another base and at a size for a test.
SMALL = [
    "model.base=toy",
    "model.device=cpu",
    "pixels.full=12544",
    "pixels.crop=4704",
    "pixels.min=784",
    "rollout.samples=2",
    "rollout.max_tokens_locate=12",
    "rollout.max_tokens_answer=4",
    "stages.0.steps=1",
    "stages.0.questions_per_step=2",
    "stages.1.steps=1",
    "evaluate.watch=1",
]
# The same of a recipe on the toy data.
SMALL_TOY = [
    *SMALL[:8],
    "data.toy={scenes: 4, eval_scenes: 1}",
    "stages=[{kind: rl, steps: 1, questions_per_step: 2}]",
    "evaluate={modes: [crops], watch: 0}",
]


def toy_run(output: str) -> TrainingRun:
    return hart_lite.train("tiny_cpu", f"output={output}", *SMALL_TOY)


def make_files(folder: Path) -> None:
    """Rows, images and tables under the names that the pages have."""
    data = list(_rows(folder / "my"))
    (folder / "my/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    lines = [f"{row['image']},{row['question']},{row['answer']},{'|'.join(row['choices'])}" for row in data]
    (folder / "my/questions.csv").write_text("\n".join(["image,question,answer,choices", *lines]) + "\n")
    (folder / "MME_RealWorld.json").write_text(json.dumps([_official(row) for row in data]))
    (folder / "MME-RealWorld-Lite.json").write_text(json.dumps([_official(row) for row in data[:2]]))
    shutil.copytree(folder / "my/images", folder / "imgs")
    shutil.copy(folder / "my" / data[0]["image"], folder / "photo.jpg")


def _rows(folder: Path, scenes: int = 3):
    """Toy scenes as a user's own rows: PNG files and JSON objects."""
    (folder / "images").mkdir(parents=True)
    for example in examples(World(), range(scenes)):
        name = f"images/{example.images[0].index}.png"
        example.images[0].load().save(folder / name)
        boxes = [list(box.xyxy) for box in example.boxes]
        row = {"id": example.id, "image": name, "question": example.question, "choices": list(example.choices)}
        yield row | {"answer": example.answer, "boxes": boxes, "category": example.category}


def _official(row: dict) -> dict:
    """The same row in the layout of MME-RealWorld."""
    return {
        "Question_id": row["id"],
        "Image": Path(row["image"]).name,
        "Text": row["question"],
        "Question Type": "Multiple Choice",
        "Answer choices": [f"({letter}) {text}" for letter, text in zip("ABCDE", row["choices"], strict=True)],
        "Ground truth": row["answer"],
        "Category": "x",
        "Subtask": "Monitoring",
        "Task": "Perception",
        "Dataset": "toy",
    }
