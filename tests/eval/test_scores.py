"""The figures, by hand; and models that cheat, which they must expose."""

import pytest
from benchmark_files import hrbench_rows, mme_row, read, treebench_row, write_mme, write_tsv

from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.registry import BENCHMARKS
from hart_lite.eval.benchmarks.scores import scores
from hart_lite.eval.prediction import Prediction, read_prediction
from hart_lite.grading import grade, read_answer
from hart_lite.types import Example


def predicted(benchmark, example: Example, text: str, boxes=(), turns=()) -> Prediction:
    """As an evaluation has it."""
    fields = {
        "benchmark": benchmark.name,
        "mode": "full",
        "id": example.id,
        "category": example.category,
        "cluster": example.images[0].key if example.images else "",
        "question": example.question,
        "choices": list(example.choices),
        "truth": example.answer,
        "text": text,
        "answer": read_answer(text, example.choices),
        "strict": grade(text, example.answer, example.choices),
        "official": benchmark.official(text, example),
        "boxes": [list(box) for box in boxes],
        "truth_boxes": [[*box.xyxy, box.image] for box in example.boxes],
        "turns": [{"kind": "answer", "text": turn} for turn in turns],
    }
    return read_prediction(fields, "a row by hand")


def row(name: str, id: str, category: str, strict: bool, official: bool, **fields) -> Prediction:
    made = {
        "benchmark": name,
        "mode": "full",
        "id": id,
        "category": category,
        "cluster": id,
        "question": "Which?",
        "choices": ["a", "b"],
        "truth": "A",
        "answer": "A" if strict else None,
        "text": "A" if strict else "",
        "strict": strict,
        "official": official,
        "boxes": [],
    }
    return read_prediction(made | fields, "a row by hand")


def test_counts_micro_macro_and_tasks_in_both_columns():
    rows = [
        row("treebench", "1", "Perception/OCR", True, False),
        row("treebench", "2", "Perception/OCR", True, True),
        row("treebench", "3", "Perception/OCR", False, True),
        row("treebench", "4", "Perception/Material", False, False, answer="B"),
        row("treebench", "5", "Reasoning/Ordering", True, True),
    ]
    found = scores(rows, BENCHMARKS["treebench"])
    assert (found["benchmark"], found["mode"], found["n"], found["missing"]) == ("treebench", "full", 5, 400)
    strict, official = found["strict"], found["official"]
    assert (strict["n"], strict["right"], strict["micro"]) == (5, 3, 3 / 5)
    assert strict["macro"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert strict["subtasks"] == {
        "Perception/Material": {"n": 1, "right": 0, "accuracy": 0},
        "Perception/OCR": {"n": 3, "right": 2, "accuracy": 2 / 3},
        "Reasoning/Ordering": {"n": 1, "right": 1, "accuracy": 1},
    }
    assert strict["tasks"] == {
        "Perception": {"n": 4, "right": 2, "accuracy": 0.5},
        "Reasoning": {"n": 1, "right": 1, "accuracy": 1},
    }
    assert (official["right"], official["micro"], official["tasks"]["Perception"]["right"]) == (3, 0.6, 2)
    assert official["subtasks"]["Perception/OCR"]["right"] == 2
    assert found["letters"] == {"A": {"read": 3, "truth": 5}, "B": {"read": 1, "truth": 0}}
    assert found["unread"] == 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_rows_are_no_figures(name):
    found = scores([], BENCHMARKS[name])
    assert (found["n"], found["missing"], found["mode"]) == (0, BENCHMARKS[name].questions, None)
    assert found["strict"]["micro"] is found["official"]["macro"] is None


def test_rows_that_do_not_belong_together_are_refused():
    rows = [row("vstar", str(n), "direct_attributes", True, True) for n in range(3)]
    vstar = BENCHMARKS["vstar"]
    with pytest.raises(HartError, match=r"scores of vstar: rows of benchmarks \['mmstar'\] given"):
        scores([*rows, row("mmstar", "9", "math", True, True)], vstar)
    with pytest.raises(HartError, match=r"rows of modes \['crops', 'full'\] given"):
        scores([*rows, row("vstar", "9", "direct_attributes", True, True, mode="crops")], vstar)
    with pytest.raises(HartError, match=r"1 ids occur twice, '1' among them"):
        scores([*rows, rows[1]], vstar)


def test_hrbench_averages_its_rotations(tmp_path):
    benchmark = BENCHMARKS["hrbench4k"]
    examples, _ = read("hrbench4k", write_tsv(tmp_path / "hr_bench_4k.tsv", hrbench_rows(4)))
    rows = [predicted(benchmark, example, example.answer if n < 6 else "none") for n, example in enumerate(examples)]
    found = scores(rows, benchmark)["strict"]
    assert found["cycles"]["0"] == {"single": 0.5, "cross": 0.5, "average": 0.5}
    assert found["cycles"]["3"] == {"single": 0.5, "cross": 0.0, "average": 0.25}
    assert (found["single"], found["cross"], found["average"]) == (0.5, 0.25, 0.375)
    assert found["micro"] == 6 / 16 and scores(rows, benchmark)["missing"] == 784
    # with rows missing it is the mean of the rotations' means, as the benchmark's own script has it
    found = scores(rows[:1] + rows[5:], benchmark)["strict"]
    assert found["cycles"]["0"]["average"] == 1 / 3 and found["cycles"]["1"]["average"] == 1 / 3
    assert found["average"] == pytest.approx((1 / 3 + 1 / 3 + 0 + 0) / 4)


def test_a_model_that_always_answers_a_is_exposed(tmp_path):
    benchmark = BENCHMARKS["hrbench8k"]
    examples, _ = read("hrbench8k", write_tsv(tmp_path / "hr_bench_8k.tsv", hrbench_rows(6)))
    found = scores([predicted(benchmark, example, "A") for example in examples], benchmark)
    for column in ("strict", "official"):
        assert (found[column]["micro"], found[column]["average"]) == (0.25, 0.25)
        assert [cycle["average"] for cycle in found[column]["cycles"].values()] == [1, 0, 0, 0]
    assert found["letters"]["A"] == {"read": 24, "truth": 6}
    assert found["letters"]["B"] == {"read": 0, "truth": 6}


def test_a_model_that_says_nothing_is_right_for_mme_realworlds_scorer_only(tmp_path):
    rows = [mme_row(n, **{"Ground truth": letter}) for n, letter in enumerate("AABCE")]
    benchmark = BENCHMARKS["mme-realworld-lite"]
    examples, _ = read(benchmark.name, write_mme(tmp_path, rows))
    found = scores([predicted(benchmark, example, "") for example in examples], benchmark)
    assert (found["official"]["right"], found["strict"]["right"], found["unread"]) == (2, 0, 5)
    assert found["official"]["chose_e"] == found["strict"]["chose_e"] == 0
    texts = ["Every car: the answer is B", "E", "(E)", "B", "B"]
    found = scores([predicted(benchmark, e, t) for e, t in zip(examples, texts, strict=True)], benchmark)
    assert (found["official"]["chose_e"], found["strict"]["chose_e"]) == (3, 2)
    assert found["strict"]["subtasks"] == {"Perception/AD": {"n": 5, "right": 0, "accuracy": 0}}


def test_treebenchs_two_mious(tmp_path):
    """Its own reads the response's numbers as they stand; ours takes the boxes mapped to original pixels."""
    benchmark = BENCHMARKS["treebench"]
    target = "[[0, 0, 100, 100], [100, 0, 200, 100]]"
    rows = [treebench_row(n, target_instances=target) for n in range(3)]
    (first, second, third), _ = read("treebench", write_tsv(tmp_path / "TreeBench.tsv", rows))
    half = "<box>[0,0,50,50]</box><answer>C</answer>"  # seen at half size: the left target
    found = scores(
        [
            predicted(benchmark, first, half, [[0, 0, 100, 100, 0]]),
            predicted(benchmark, second, "<answer>C</answer>", [[0, 0, 200, 100, 0]]),  # the whole image
            predicted(benchmark, third, "C", (), ["<box>[100,0,200,100]</box>", "C"]),  # in its first turn
        ],
        benchmark,
    )
    assert found["official"]["miou"] == pytest.approx((0.25 / 2 + 0 + 0.5) / 3)
    assert found["strict"]["miou"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert found["strict"]["right"] == found["official"]["right"] == 3


def test_visual_cots_box_metric():
    rows = [
        row(
            "visual-cot",
            "gqa/1",
            "gqa",
            True,
            True,
            choices=[],
            truth_boxes=[[0, 0, 10, 10, 0]],
            boxes=[[0, 0, 10, 10, 0]],
        ),
        row(
            "visual-cot",
            "gqa/2",
            "gqa",
            True,
            True,
            choices=[],
            truth_boxes=[[0, 0, 10, 10, 0]],
            boxes=[[0, 0, 10, 5, 0]],
        ),
        row("visual-cot", "gqa/3", "gqa", True, True, choices=[], truth_boxes=[[0, 0, 10, 10, 0]], boxes=[]),
        row(
            "visual-cot",
            "gqa/4",
            "gqa",
            True,
            True,
            choices=[],
            truth_boxes=[[0, 0, 10, 10, 0]],
            boxes=[[0, 0, 10, 6, 0]],
        ),
    ]
    found = scores(rows, BENCHMARKS["visual-cot"])
    assert found["box_iou_over_half"] == 0.5  # 0.5 itself is not over 0.5
    assert found["letters"] == {} and found["missing"] == 9_933
