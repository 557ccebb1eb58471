"""Grounding by hand, and the paper's own counts."""

import pytest

from hart_lite.eval.grounding import (
    IOU_THRESHOLDS,
    grounding,
    joint_table,
    mutual_information,
    summarise_grounding,
    wrong_box_given_right,
)
from hart_lite.types import Box

SIZE = [(100, 100)]

# Table 1 of the paper, 4,042 questions: [[wrong box & wrong answer, wrong box & right answer],
#                                         [right box & wrong answer, right box & right answer]]
PAPER = {
    "Qwen2.5-VL-7B": ([[466, 1057], [681, 1838]], 0.00105, 0.365),
    "Qwen2.5-VL-7B, HART": ([[1028, 502], [682, 1830]], 0.11299, 0.215),
    "InternVL3-8B": ([[1578, 1359], [335, 770]], 0.03226, 0.638),
    "InternVL3-8B, HART": ([[1931, 998], [325, 788]], 0.07964, 0.559),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_counts_give_its_figures(name):
    table, bits, wrong_box = PAPER[name]
    assert sum(map(sum, table)) == 4042
    assert mutual_information(table) == pytest.approx(bits, abs=5e-6)
    assert wrong_box_given_right(table) == pytest.approx(wrong_box, abs=5e-4)


@pytest.mark.parametrize("name", ["Qwen2.5-VL-7B", "InternVL3-8B"])
def test_proposition_1_holds_on_the_papers_counts(name):
    assert mutual_information(PAPER[f"{name}, HART"][0]) > mutual_information(PAPER[name][0])


def test_information_of_tables_whose_answer_is_known():
    assert mutual_information([[5, 0], [0, 5]]) == pytest.approx(1)
    assert mutual_information([[0, 5], [5, 0]]) == pytest.approx(1)
    assert mutual_information([[10, 30], [20, 60]]) == pytest.approx(0, abs=1e-12)
    assert mutual_information([[0, 7], [0, 3]]) == pytest.approx(0, abs=1e-12)
    assert mutual_information([[0, 0], [0, 0]]) == 0


def test_the_rows_of_the_joint_table_are_the_boxes_and_its_columns_the_answers():
    right = [True, True, True, False, False, True]
    boxes = [True, True, False, True, False, False]
    table = joint_table(right, boxes)
    assert table == [[1, 2], [1, 2]]
    assert joint_table([True], [False]) == [[0, 1], [0, 0]]
    assert joint_table([False], [True]) == [[0, 0], [1, 0]]
    assert wrong_box_given_right(joint_table([True], [False])) == 1.0
    assert wrong_box_given_right(joint_table([False], [True])) is None
    with pytest.raises(ValueError, match="shorter"):
        joint_table([True, True], [True])


def test_one_box_by_hand():
    """20 x 20 at (10, 10) against 20 x 20 at (20, 10): shared 10 x 20 = 200, union 600."""
    found = grounding([Box(20, 10, 40, 30)], [Box(10, 10, 30, 30)], SIZE)
    assert found.model_dump() == {
        "grounded": True,
        "grounded_targets": 1,
        "targets": 1,
        "iogt": pytest.approx(0.5),
        "iou": pytest.approx(1 / 3),
        "coverage": pytest.approx(0.04),
    }


def test_the_threshold_is_above_three_tenths():
    target = [Box(0, 0, 100, 10)]
    assert not grounding([Box(0, 0, 30, 10)], target, SIZE).grounded
    assert grounding([Box(0, 0, 31, 10)], target, SIZE).grounded


def test_several_targets_count_one_by_one_and_any():
    """Box one hits target one exactly, nothing hits target two: any target yes, one of two; IoU (1 + 0) / 2."""
    targets = [Box(0, 0, 20, 20), Box(60, 60, 80, 80)]
    found = grounding([Box(0, 0, 20, 20), Box(30, 0, 50, 20)], targets, SIZE)
    assert (found.grounded, found.grounded_targets, found.targets) == (True, 1, 2)
    assert found.iou == pytest.approx(0.5)
    assert found.coverage == pytest.approx(0.08)
    assert summarise_grounding([found])["grounded_per_target"] == 0.5


def test_overlapping_boxes_are_covered_once():
    found = grounding([Box(0, 0, 20, 20), Box(0, 0, 20, 20), Box(10, 0, 30, 20)], [Box(0, 0, 20, 20)], SIZE)
    assert found.coverage == pytest.approx(0.06)


def test_a_box_on_another_image_grounds_nothing():
    sizes = [(100, 100), (50, 100)]
    found = grounding([Box(0, 0, 50, 50, image=1)], [Box(0, 0, 50, 50, image=0)], sizes)
    assert (found.grounded, found.iou) == (False, 0)
    assert found.coverage == pytest.approx((0 + 0.5) / 2)


def test_no_box_is_wrong_and_covers_nothing():
    found = grounding([], [Box(0, 0, 10, 10)], SIZE)
    assert (found.grounded, found.iogt, found.iou, found.coverage) == (False, 0, 0, 0)


def test_the_whole_image_is_seen_through():
    """IoGT is perfect; coverage and IoU say why."""
    found = grounding([Box(0, 0, 100, 100)], [Box(40, 40, 50, 50)], SIZE)
    summary = summarise_grounding([found] * 3)
    assert found.iogt == 1
    assert summary["wrong_grounding"] == 0
    assert summary["coverage"] == 1
    assert summary["mean_iou"] == pytest.approx(0.01)
    assert summary["iou_curve"][0] == 1
    assert not any(summary["iou_curve"][1:])


def test_a_summary_by_hand():
    """IoUs 1, 1/3, 0 over three questions; targets 1, 1, 2 of which 1, 1, 0 are hit."""
    rows = [
        grounding([Box(0, 0, 10, 10)], [Box(0, 0, 10, 10)], SIZE),
        grounding([Box(20, 10, 40, 30)], [Box(10, 10, 30, 30)], SIZE),
        grounding([], [Box(0, 0, 10, 10), Box(20, 20, 30, 30)], SIZE),
    ]
    summary = summarise_grounding(rows)
    assert summary["wrong_grounding"] == pytest.approx(1 / 3)
    assert summary["grounded_per_target"] == pytest.approx(2 / 4)
    assert summary["mean_iou"] == pytest.approx(4 / 9)
    assert summary["coverage"] == pytest.approx((0.01 + 0.04) / 3)
    assert (IOU_THRESHOLDS[0], IOU_THRESHOLDS[1], IOU_THRESHOLDS[-1]) == (0.0, 0.05, 0.95)
    expected = [2 / 3 if t < 1 / 3 else 1 / 3 for t in IOU_THRESHOLDS]
    assert summary["iou_curve"] == pytest.approx(expected)
