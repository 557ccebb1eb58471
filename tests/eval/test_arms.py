"""The arms of an evaluation that say what the crops are worth: what they show, and the difference they make."""

from dataclasses import replace

import pytest
from pictures import Photo
from scripted import runner

from hart_lite.boxes import iou
from hart_lite.data.noise import Noise
from hart_lite.eval.metrics import crops_worth, metrics
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import Evaluation
from hart_lite.eval.run_summary import run_metrics, run_summary_table
from hart_lite.eval.summary import summary_table
from hart_lite.inference.protocols import hart
from hart_lite.inference.protocols.registry import ARMS, find
from hart_lite.types import Box, Example

BOX, LARGE = '[{"bbox_2d": [28,28,56,56]}]', '[{"bbox_2d": [0,0,112,100]}]'  # of 112 x 112
ROW = {"benchmark": "toy", "category": "", "question": "?", "choices": [], "truth": "x", "text": "x", "answer": "x"}


def example(id: str = "q", seed: int = 0) -> Example:
    return Example(id, (Photo(672, 672, seed),), "Which animal is it?", "B", ("lion", "tiger"))


def shown(policy, asked: Example, protocol):
    return runner(policy, [BOX], ["(B)"], crop_pad=0.0).run([asked], protocol)[0]


def test_noise_has_the_size_of_the_crop_and_nothing_of_the_image(policy):
    [crop] = shown(policy, example(), hart.crops).crops
    done = shown(policy, example(), hart.noise)
    [slot] = done.turns[1].prompt.slots
    assert slot.view.size == crop.size and isinstance(slot.view.source, Noise)
    assert done.boxes == (Box(168, 168, 336, 336),)
    pixels = slot.view.load().tobytes()
    assert slot.view.load().size == crop.size and len(set(pixels)) == 256
    again, other = (shown(policy, asked, hart.noise).crops[0] for asked in (example(seed=5), example("r")))
    assert again.load().tobytes() == pixels  # by the question, whatever is in the image
    assert other.load().tobytes() != pixels


def test_control_crops_have_the_size_of_the_box_elsewhere(policy):
    done = shown(policy, example(), hart.control)
    [slot] = done.turns[1].prompt.slots
    assert (slot.view.box.width, slot.view.box.height) == pytest.approx((168, 168), abs=1.01)  # in whole pixels
    assert iou(slot.view.box, done.boxes[0]) < 0.12 and done.boxes == (Box(168, 168, 336, 336),)
    assert shown(policy, example(), hart.control).crops == done.crops
    assert shown(policy, example("r"), hart.control).crops != done.crops


def test_a_box_without_room_elsewhere_is_not_answered(policy):
    [done] = runner(policy, [LARGE]).run([example()], hart.control)
    assert [turn.kind for turn in done.turns] == ["locate"] and done.boxes and not done.crops


def rows(mode: str, right: str, unplaced: str = "") -> list[Prediction]:
    """One for each question on an image of its own: "10" is one right and one wrong. `unplaced` are the numbers of
    questions without room for a control."""
    found = []
    for n, value in enumerate(right):
        counts = {"control_unplaced": int(str(n) in unplaced)} if mode == "crops-control" else {}
        own = {"id": str(n), "cluster": str(n), "strict": value == "1", "official": value == "1", "counts": counts}
        found.append(Prediction(**ROW, **own, mode=mode, boxes=[Box(0, 0, 1, 1)]))
    return found


def test_the_difference_is_taken_question_by_question():
    found = crops_worth(rows("crops", "11100"), rows("crops-control", "10010"))
    assert (found["value"], found["n"]) == (pytest.approx((0 + 1 + 1 - 1 + 0) / 5), 5)
    assert crops_worth(rows("crops", "0000"), rows("crops-noise", "1110"))["value"] == pytest.approx(-0.75)
    placed = crops_worth(rows("crops", "11100"), rows("crops-control", "10010", unplaced="03"))
    assert (placed["value"], placed["n"]) == (pytest.approx(2 / 3), 3)
    assert crops_worth(rows("crops", "1"), rows("crops-control", "1", unplaced="0")) is None


def test_summaries_print_what_the_crops_are_worth(tmp_path):
    asked = [*rows("crops", "1111"), *rows("crops-noise", "0001"), *rows("crops-control", "1001", unplaced="3")]
    evaluation = Evaluation(tmp_path, {"model": "toy", "benchmarks": {"toy": ""}}, asked, [])
    text = summary_table(metrics(evaluation))
    assert "toy: What the crops are worth: right with crops minus right with control crops +66.7 (" in text
    assert "; n 3); right with crops minus right with noise +75.0 (" in text
    without = replace(evaluation, rows=rows("crops", "1111"))
    assert "worth" not in summary_table(metrics(without))
    figures = {"before": run_metrics(without), "after": run_metrics(evaluation)}
    assert "| what the crops are worth, crops - crops-control |  | 0.667 |" in run_summary_table(figures)


def test_the_arms_are_modes():
    assert [find(mode) for mode in ARMS] == [hart.noise, hart.control]
