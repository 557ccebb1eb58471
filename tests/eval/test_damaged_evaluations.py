"""The files of an evaluation, damaged."""

import pytest
from damage import as_json, check_reader

from hart_lite.errors import HartError
from hart_lite.eval.prediction import read_prediction
from hart_lite.eval.results import read_evaluation

PREDICTION = {
    "benchmark": "treebench",
    "mode": "crops",
    "id": "1",
    "category": "Perception/OCR",
    "cluster": "i",
    "question": "Q?",
    "choices": ["a", "b"],
    "truth": "A",
    "text": "A",
    "answer": "A",
    "strict": True,
    "official": True,
    "boxes": [[1, 2, 3, 4, 0]],
    "truth_boxes": [[1, 2, 3, 4, 0]],
    "counts": {"rejected_boxes": 0},
    "turns": [{"kind": "verify", "text": "..", "prompt_tokens": 5, "response_tokens": None, "images": 1}],
    "grounding": {"grounded": True, "iogt": 1.0, "grounded_targets": 1, "targets": 1, "iou": 1.0, "coverage": 0.5},
}
FILES = {
    "eval.json": {"model": "runs/small", "benchmarks": {"treebench": "T.tsv"}, "modes": ["crops"], "seed": 0},
    "predictions.jsonl": PREDICTION,
    "bad_rows.jsonl": {"where": "T.tsv:3", "problem": "no answer"},
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_evaluation_is_read_or_refused(tmp_path, name):
    for file, content in FILES.items():
        (tmp_path / file).write_bytes(b"".join(as_json(content)))

    def read(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        found = read_evaluation(tmp_path)
        assert found.rows and found.parts() and found.label

    check_reader(read, *as_json(FILES[name]))


@pytest.mark.parametrize("boxes", [5, "text", {"a": 1}, True])
def test_true_boxes_must_be_a_list(boxes):
    with pytest.raises(HartError, match=r"x:1: truth_boxes is .*: Input should be a valid list"):
        read_prediction(PREDICTION | {"truth_boxes": boxes}, "x:1")
