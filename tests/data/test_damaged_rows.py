"""Rows of data sets that others wrote, in every layout, damaged."""

import io
import itertools
import json

import pyarrow.parquet
import pytest
from damage import as_json, check_reader
from PIL import Image

from hart_lite.data.dataset import checked
from hart_lite.data.formats.coco import read_coco
from hart_lite.data.formats.conversations import read_conversations
from hart_lite.data.formats.csv_folder import read_csv_folder
from hart_lite.data.formats.mgpo import read_mgpo
from hart_lite.data.rows import read_rows
from hart_lite.errors import HartError
from hart_lite.types import Example
from hart_lite.utils.text import shown

CHAT = [
    *({"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A car."}),
    *({"from": "human", "value": "And?"}, {"from": "gpt", "value": "No."}),
]
MESSAGES = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "x"}]
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 9.5], "question": "What?", "answer": "x"},
        {"id": 6, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 9], "captions": ["a", "b"], "answer": "y"},
    ],
    "categories": [{"id": 2, "name": "cat"}],
}
MGPO = {"image": "a.png", "question": "Q?", "choices": "(A) x\n(B) y", "reward_model": {"ground_truth": "A"}, "id": 3}
ROW = {"id": 7, "image": "a.png", "question": "What is it?", "choices": ["cat", "dog"], "answer": "B"}
ROW |= {"boxes": [[0, 0, 20, 16], [1.5, 2, 3, 4]], "category": "ocr"}
TWO_IMAGES = {"images": ["a.png", "b.png"], "question": "Which?", "answer": "the left", "boxes": [[0, 0, 24, 16, 1]]}
MME = {
    "Question_id": "Perception/Autonomous_Driving/Objects_Identify/0001",
    "Image": "a.png",
    "Text": "What is to the left?",
    "Answer choices": ["(A) A bus", "(B) A truck", "(C) A tree", "(D) Nothing", "(E) No such object."],
    "Ground truth": "B",
    "Subtask": "Autonomous_Driving",
    "Task": "Perception",
}
CSV = b'id,image,question,choices,answer,category\n1,a.png,"What, then?",cat|dog,A,x\n2,a.png,Who?,,Ann,\n'
LAYOUTS = {
    "rows": ("x.jsonl", as_json(ROW, TWO_IMAGES), read_rows),
    "mme_realworld": ("MME.json", as_json([MME]), lambda path: read_rows(path, format="mme_realworld")),
    "llava": ("x.json", as_json([{"id": "1", "image": "a.png", "conversations": CHAT}]), None),
    "messages": ("x.json", as_json([{"images": ["a.png"], "messages": MESSAGES}]), None),
    "mgpo": ("x.jsonl", as_json(MGPO), lambda path: read_mgpo(path, None, None)),
    "coco": ("x.json", as_json(COCO), lambda path: read_coco(path, None, "Where is {category}?", True)),
    "csv": ("x.csv", [CSV], lambda path: read_csv_folder(path, None)),
}


def png() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    return tmp_path


def good_rows(rows) -> int:
    """Read and checked as training and `hart-lite data convert` do: every row becomes an example or an error."""
    good = 0
    for where, result in checked(iter(rows)):
        assert isinstance(where, str) and isinstance(result, Example | HartError)
        assert str(result)
        good += isinstance(result, Example)
    return good


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_rows_are_read_or_refused(folder, layout):
    name, samples, rows = LAYOUTS[layout]
    rows = rows or (lambda path: read_conversations(path, None, None))
    path = folder / name

    def read(data: bytes) -> int:
        path.write_bytes(data)
        return good_rows(rows(str(path)))

    assert all(map(read, samples))
    check_reader(read, *samples)


def test_damaged_parquet_is_read_or_refused(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    rows = [ROW | {"id": "7", "image": {"bytes": png(), "path": None}}, ROW | {"id": "8", "image": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "sample.parquet")
    names = (folder / f"{number}.parquet" for number in itertools.count())  # tables are cached by name

    def read(data: bytes) -> int:
        path = next(names)
        path.write_bytes(data)
        return good_rows(read_rows(path))

    sample = (folder / "sample.parquet").read_bytes()
    assert read(sample) == 1
    check_reader(read, sample)


def test_a_value_too_large_to_show_is_named_by_its_type():
    nested = []
    for _ in range(5000):
        nested = [nested]
    assert shown(nested) == "a list that is too large to show" and "int" in shown(1 << 30_000)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"id": ' + "9" * 5000 + "}"])
def test_a_row_that_python_cannot_read_is_named_beside_good_ones(folder, line):
    (folder / "x.jsonl").write_text(f"{json.dumps(ROW)}\n{line}\n")
    (good, example), (bad, error) = checked(read_rows(folder / "x.jsonl"))
    assert (example.id, good[-2:], bad[-2:]) == ("7", ":1", ":2") and "not JSON" in str(error)
