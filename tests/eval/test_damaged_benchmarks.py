"""The files that benchmarks are published in, damaged."""

import base64
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from damage import as_json, check_reader
from PIL import Image

from hart_lite.data.options import from_question, from_text, lines
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.registry import BENCHMARKS
from hart_lite.types import Example

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
VSTAR_BESIDE = {"target_object": ["x"], "bbox": [[2, 1, 10, 4]], "question": "What?", "options": ["of wood", "of tin"]}
VISUAL_COT = {"img_path": "a.png", "expression": "Who?", "bbox": [1, 2, 9, 9], "height": 16, "width": 24}
VISUAL_COT |= {"question_id": 0}
VISUAL_COT_TALK = {
    "question_id": 0,
    "image": ["a.png"],
    "conversations": [{"from": "human", "value": "<image>\nWho? Please provide the bounding box of"}] * 3
    + [{"from": "gpt", "value": "Ann"}],
}
LETTERS = {"A": "red", "B": "blue", "C": "green", "D": "white"}
OPTIONS = {"multi-choice options": '"A. red\nB. blue"', "target_instances": "[[1, 2, 9, 9]]"}
TABLES = {
    "treebench": {"index": 0, "question": "What?", "answer": "A", "category": "Perception/OCR"} | OPTIONS,
    "hrbench4k": {"index": 0, "question": "What?", "answer": "A", "category": "single", "cycle_category": 0} | LETTERS,
    "mmstar": {"index": 0, "question": "What? Options: A: x, B: y", "answer": "B", "category": "math"},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "direct_attributes").mkdir()
    for name in ("a.png", "direct_attributes/a.png"):
        Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(tmp_path / name)
    return tmp_path


def good_rows(name: str, source: Path) -> int:
    """Of a benchmark's files: each is asked about and its images are loaded, as an evaluation does."""
    good = 0
    for row in BENCHMARKS[name].read(str(source)):
        if isinstance(row, Example):
            BENCHMARKS[name].prompt(row)
            for image in row.images:
                image.load()
            good += 1
    return good


def check(name: str, file: Path, source: Path, *samples: bytes) -> None:
    def read(data: bytes) -> int:
        file.write_bytes(data)
        return good_rows(name, source)

    assert all(map(read, samples))
    check_reader(read, *samples)


def test_mme_realworld(folder):
    check("mme-realworld", folder / "MME_RealWorld.json", folder / "MME_RealWorld.json", *as_json([MME]))


def test_vstar(folder):
    check("vstar", folder / "test_questions.jsonl", folder / "test_questions.jsonl", *as_json(VSTAR))


def test_vstar_without_its_questions(folder):
    check("vstar", folder / "direct_attributes/a.json", folder, *as_json(VSTAR_BESIDE))


def test_visual_cot(folder):
    for name in ("benchmark", "benchmark_det"):
        (folder / name).mkdir()
    (folder / "benchmark/gqa.json").write_bytes(*as_json([VISUAL_COT_TALK]))
    check("visual-cot", folder / "benchmark_det/gqa.jsonl", folder, *as_json(VISUAL_COT))


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_tabs(folder, name):
    cells = TABLES[name] | {"image": base64.b64encode((folder / "a.png").read_bytes()).decode()}
    sample = "\t".join(cells) + "\n" + "\t".join(map(str, cells.values())) + "\n"
    check(name, folder / "x.tsv", folder / "x.tsv", sample.encode())


def test_tables_of_parquet(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    row = TABLES["mmstar"] | {"image": (folder / "a.png").read_bytes()}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "mmstar.parquet")
    sample = (folder / "mmstar.parquet").read_bytes()
    check("mmstar", folder / "mmstar.parquet", folder / "mmstar.parquet", sample)


def test_choices_in_a_question():
    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        lines(text)
        for reader in (from_text, from_question):
            try:
                reader(text)
            except HartError:
                continue

    check_reader(read, b"Q? (A) x (B) y", b"A. x\nB. y", b"Q Options: A: x, B: y", b"<answer>C. green</answer>")


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_integers_that_no_float_holds(folder, number):
    (folder / "MME_RealWorld.json").write_text(json.dumps([MME | {"Question_id": number}, MME]))
    named, good = BENCHMARKS["mme-realworld"].read(str(folder / "MME_RealWorld.json"))
    assert named.id == str(number) and good.answer == "B"
    beside = VSTAR_BESIDE | {"bbox": [[number, 0.5, number, 4]]}
    (folder / "direct_attributes/a.json").write_text(json.dumps(beside))
    (bad,) = BENCHMARKS["vstar"].read(str(folder))
    assert bad.problem.startswith("bbox: ")
