"""Small files in the official layouts of the benchmarks, field for field as published, with noise for images; and what
the benchmarks read in them."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from hart_lite.eval.benchmarks.base import BadRow
from hart_lite.eval.benchmarks.registry import BENCHMARKS
from hart_lite.types import Example

E_CHOICE = "(E) The image does not feature the object."


def jpeg(seed: int = 0, size: tuple[int, int] = (120, 80)) -> bytes:
    """Noise: (width, height) pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (120, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(seed, size))
    return path


def write_tsv(path: Path, rows: Sequence[dict]) -> Path:
    """As `DataFrame.to_csv(sep="\\t", index=False)` writes it: fields are quoted where they must be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def write_jsonl(path: Path, rows: Sequence[dict | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def mme_row(number: int = 0, **fields) -> dict:
    """One of `MME_RealWorld.json` or `MME-RealWorld-Lite.json`."""
    return {
        "Question_id": f"Perception/Autonomous_Driving/Objects_Identify/{number:04}",
        "Image": "AutonomousDriving/a.jpg",
        "Text": "What is to the left of the car?",
        "Question Type": "Multiple Choice",
        "Answer choices": ["(A) A bus", "(B) A truck", "(C) A tree", "(D) Nothing", E_CHOICE],
        "Ground truth": "B",
        "Category": "Objects_Identify",
        "Subtask": "Autonomous_Driving",
        "Task": "Perception",
        "Dataset": "nuScenes",
    } | fields


def write_mme(folder: Path, rows: Sequence[dict], name: str = "MME-RealWorld-Lite.json") -> Path:
    """The JSON with its images in `imgs`."""
    write_image(folder / "imgs" / "AutonomousDriving" / "a.jpg", 1)
    write_image(folder / "imgs" / "monitoring_images" / "b.jpg", 2)
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def mme_table_row(index: int = 0, image: bytes | None = None, **fields) -> dict:
    """One of the parquet shards for lmms-eval."""
    return {
        "bytes": b64(image or jpeg(1)),
        "path": "dummy/path",
        "index": index,
        "question": "What is written on the sign?",
        "multi-choice options": ["(A) STOP", "(B) SLOW", "(C) GO", "(D) EXIT", E_CHOICE],
        "answer": "C",
        "category": "Perception/OCR with Complex Context",
        "l2-category": "license",
    } | fields


def treebench_row(index: int = 0, image: bytes | None = None, **fields) -> dict:
    """One of `TreeBench.tsv`."""
    return {
        "index": index,
        "image": b64(image or jpeg(index, (200, 100))),
        "question": "What is the colour of the kite?",
        "multi-choice options": "A. red\nB. blue\nC. green\nD. white",
        "answer": "C",
        "category": "Perception/Attributes",
        "l2-category": "Perception/Attributes",
        "target_instances": "[[10, 20, 50, 60], [100, 0, 199, 99]]",
    } | fields


def write_vstar(folder: Path, questions: bool = True) -> Path:
    """Two questions: their images, the JSON beside each, and `test_questions.jsonl`."""
    beside = {
        "direct_attributes/sa_4690": {
            "target_object": ["glove"],
            "bbox": [[20, 10, 30, 40]],
            "question": "What is the material of the glove?",
            "options": ["The glove is of kevlar.", "of rubber", "of cotton", "of leather"],
        },
        "relative_position/sa_100": {
            "target_object": ["dog", "river"],
            "bbox": [[0, 0, 10, 10], [100, 60, 40, 40]],
            "question": "Is the dog on the left or right side of the river?",
            "options": ["on the right", "on the left"],
        },
    }
    for number, (name, fields) in enumerate(beside.items()):
        write_image(folder / f"{name}.jpg", number)
        (folder / f"{name}.json").write_text(json.dumps(fields))
    if questions:
        instruction = "Answer with the option's letter from the given choices directly."
        write_jsonl(
            folder / "test_questions.jsonl",
            [
                {
                    "image": "direct_attributes/sa_4690.jpg",
                    "text": "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
                    + instruction,
                    "category": "direct_attributes",
                    "label": "C",
                    "question_id": "0",
                },
                {
                    "image": "relative_position/sa_100.jpg",
                    "text": "Is the dog on the left or right side of the river?\n(A) right\n(B) left\n" + instruction,
                    "category": "relative_position",
                    "label": "A",
                    "question_id": "1",
                },
            ],
        )
    return folder


def hrbench_rows(questions: int = 2) -> list[dict]:
    """Questions in four rotations each, as `hr_bench_4k.tsv` and its parquet have them; one image a question."""
    rows = []
    for number in range(questions):
        options = [f"{word} {number}" for word in ("red", "blue", "green", "white")]
        image = b64(jpeg(number, (160, 90)))
        for turn in range(4):
            rotated = options[turn:] + options[:turn]
            rows.append(
                {
                    "index": number * 4 + turn,
                    "question": f"What is the colour of car {number}?",
                    "answer": "ABCD"[rotated.index(options[0])],
                    "category": ("single", "cross")[number % 2],
                    **dict(zip("ABCD", rotated, strict=True)),
                    "cycle_category": turn,
                    "image": image,
                }
            )
    return rows


def mmstar_row(index: int = 0, **fields) -> dict:
    """One of `mmstar.parquet`."""
    return {
        "index": index,
        "question": "What is shown?\nOptions: A: A cat, sitting, B: A dog., C: 3, D: none",
        "image": {"bytes": jpeg(index), "path": None},
        "answer": "B",
        "category": "coarse perception",
        "l2_category": "image scene and topic",
        "meta_info": {"source": "MMBench", "split": "val", "image_path": "images/0.jpg"},
    } | fields


def viscot_rows(
    name: str, number: int, question: str, answer: str, bbox: Sequence[float], size: tuple[int, int] = (120, 80)
) -> tuple[dict, dict]:
    """(one of `benchmark_det/NAME.jsonl`, one of `benchmark/NAME.json`)"""
    path = f"cot/{name}/{number}.jpg"
    det = {"img_path": path, "expression": question, "bbox": list(bbox), "height": size[1], "width": size[0]}
    ask = "Please provide the bounding box coordinate of the region that can help you answer the question better."
    turns = [f"<image>\n{question} {ask}", "[0.100, 0.100, 0.200, 0.200]", "<image>", answer]
    return det | {"question_id": number, "split": "val"}, {
        "dataset": name,
        "split": "val",
        "question_id": number,
        "image": [path, f"{path}###{list(bbox)}"],
        "conversations": [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(turns)],
    }


def write_viscot(folder: Path, name: str, pairs: Sequence[tuple[dict, dict]]) -> Path:
    write_jsonl(folder / "benchmark_det" / f"{name}.jsonl", [det for det, _ in pairs])
    (folder / "benchmark").mkdir(exist_ok=True)
    (folder / "benchmark" / f"{name}.json").write_text(json.dumps([told for _, told in pairs]))
    for det, _ in pairs:
        write_image(folder / det["img_path"], det["question_id"])
    return folder


def read(name: str, source: str | Path) -> tuple[list[Example], list[BadRow]]:
    rows = list(BENCHMARKS[name].read(str(source)))
    return [row for row in rows if isinstance(row, Example)], [row for row in rows if isinstance(row, BadRow)]


def one(name: str, source: str | Path) -> Example:
    (example,), bad = read(name, source)
    assert not bad
    return example


def problem(name: str, source: str | Path) -> str:
    """Of the one bad row."""
    _, (bad,) = read(name, source)
    return f"{bad.where}: {bad.problem}"
