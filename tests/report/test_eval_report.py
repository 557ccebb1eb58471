"""What an evaluation comes to, by hand; and that the summary gives away models that only seem to be good."""

import json
import re
from pathlib import Path

import pytest
from evaluations import (
    SIZE,
    always_a,
    blind,
    elsewhere,
    other_letter,
    questions,
    right_from_anywhere,
    rows_of,
    sound,
    whole_image,
    write_evaluation,
)

from hart_lite.errors import HartError
from hart_lite.eval.grounding import joint_table, recall_iou
from hart_lite.eval.metrics import metrics
from hart_lite.eval.results import read_evaluation
from hart_lite.eval.summary import benchmark_scores, cautions, summary_text
from hart_lite.types import Box

HABIT = "whatever is asked"
SIZE_ALONE = "wherever they are put"
APART = "the answers do not rest on the boxes"


def summary(folder: Path) -> str:
    evaluation = read_evaluation(folder)
    return summary_text(evaluation, metrics(evaluation), benchmark_scores(evaluation))


def figures_of(tmp_path, model, n=200, **changes):
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(n), model, **changes))
    return folder, metrics(read_evaluation(folder))["treebench"]["crops"]


@pytest.mark.parametrize(
    ("model", "given_away"),
    [
        (always_a, {HABIT, SIZE_ALONE, APART}),
        (whole_image, {SIZE_ALONE}),
        (right_from_anywhere, {SIZE_ALONE, APART}),
        (sound, set()),
    ],
)
def test_models_that_only_seem_good_are_given_away(tmp_path, model, given_away):
    folder, figures = figures_of(tmp_path, model)
    said = " ".join(cautions(figures))
    assert {words for words in (HABIT, SIZE_ALONE, APART) if words in said} == given_away
    text = summary(folder)
    for caution in cautions(figures):
        assert f"**{caution}**" in text


def test_what_the_summary_says_at_a_glance(tmp_path):
    text = summary(figures_of(tmp_path / "a", always_a)[0])
    assert "- `crops`: 25.0 % right. A is said to 100.0 % of the questions and right for 25.0 %. Boxes ground" in text
    text = summary(figures_of(tmp_path / "b", whole_image)[0])
    assert "Boxes ground 100.0 % of the questions and cover 100.0 % of the image, mean IoU 1.0 %." in text
    assert "Answers tell 0.0000 bits about them (p 1.000)." in text
    text = summary(figures_of(tmp_path / "c", right_from_anywhere)[0])
    assert "- `crops`: 100.0 % right." in text
    assert "98.0 % of the right answers come with a wrong box or none" in text


def test_an_order_of_choices_that_gives_the_answer_away(tmp_path):
    """Every right answer is at A, as in a script that shows V*'s options as its files list them."""
    rows = [row | {"truth": "A", "strict": row["answer"] == "A"} for row in rows_of(questions(40), always_a)]
    figures = metrics(read_evaluation(write_evaluation(tmp_path / "eval", rows)))["treebench"]["crops"]
    assert figures["answers"]["strict"]["micro"]["value"] == 1
    assert "A is the right answer to 100.0 % of the questions: always saying it would do as well." in cautions(figures)


def test_answers_that_cannot_be_read_are_named(tmp_path):
    folder, figures = figures_of(tmp_path, blind)
    assert figures["habit"]["unread"] == 1
    assert "No answer could be read from 100.0 % of the responses." in cautions(figures)
    assert "- `crops`: 0.0 % right. Boxes ground 0.0 %" in summary(folder)


def test_figures_by_hand(tmp_path):
    """Six questions, two categories of 4 and 2: right 3 of 4 and 0 of 2; boxes: 4 exact, 1 elsewhere, 1 none."""
    asked = questions(6, categories=["Perception/OCR", "Perception/OCR", "Reasoning/Ordering"])

    def model(question):
        right = question.number in (0, 1, 3)
        boxes = {4: elsewhere(question), 5: []}.get(question.number, [question.target])
        return question.truth if right else other_letter(question), boxes

    folder = write_evaluation(tmp_path / "eval", rows_of(asked, model))
    figures = metrics(read_evaluation(folder))["treebench"]["crops"]
    found = figures["answers"]["strict"]
    assert (figures["questions"], figures["images"], figures["tokens"]) == (6, 3, 12)
    assert found["micro"]["value"] == 0.5
    assert found["macro"]["value"] == pytest.approx((3 / 4 + 0 / 2) / 2)
    assert found["tasks"]["Perception"]["value"] == 0.75
    assert found["categories"]["Reasoning/Ordering"] == {"value": 0, "low": 0, "high": 0, "n": 2}
    assert figures["valid_box"]["value"] == pytest.approx(5 / 6)
    grounding = figures["grounding"]
    assert grounding["grounded"]["value"] == pytest.approx(4 / 6)
    assert grounding["coverage"]["value"] == pytest.approx((4 * 8000 + 8000) / 6 / (SIZE[0] * SIZE[1]))
    assert grounding["iou_curve"][-1] == pytest.approx(4 / 6)
    assert figures["joint"]["counts"] == joint_table([1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0]) == [[2, 0], [1, 3]]
    assert figures["joint"]["wrong_box_given_right"]["value"] == 0


def test_per_box_and_any_target_are_two_readings(tmp_path):
    """Each question has two targets, of which the model hits one."""
    rows = rows_of(questions(10), lambda q: (q.truth, [q.target]))
    for row in rows:
        row["grounding"] |= {"targets": 2, "grounded_targets": 1}
    figures = metrics(read_evaluation(write_evaluation(tmp_path / "eval", rows)))["treebench"]["crops"]
    assert figures["grounding"]["grounded"]["value"] == 1
    assert figures["grounding"]["grounded_per_target"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 20}


def test_treebenchs_miou_by_hand():
    """Target one is hit exactly by the second box, target two by half: (1 + 1/2) / 2; a third box costs nothing."""
    targets = [Box(0, 0, 10, 10), Box(50, 50, 70, 70)]
    boxes = [Box(50, 50, 70, 60), Box(0, 0, 10, 10), Box(200, 200, 300, 300)]
    assert recall_iou(boxes, targets) == pytest.approx(0.75)
    assert recall_iou([], targets) == 0


def test_answers_at_a_glance_are_held_against_the_boxes_of_the_same_model(tmp_path):
    asked = questions(60)
    glance = rows_of(asked, blind, mode="full", boxed=False)
    folder = write_evaluation(tmp_path / "eval", [*glance, *rows_of(asked, sound, mode="full+crops")])
    found = metrics(read_evaluation(folder))["treebench"]
    assert found["full"]["grounding"] == found["full+crops"]["grounding"]
    assert found["full"]["grounding"]["mode"] == "full+crops"
    assert found["full"]["joint"]["counts"][0][1] == found["full"]["joint"]["counts"][1][1] == 0
    assert "| boxes of mode | full+crops | full+crops |" in summary(folder)


def test_a_benchmark_without_boxes_has_answers_only(tmp_path):
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(20), sound, "mmstar", "full", boxed=False))
    assert "grounding" not in metrics(read_evaluation(folder))["mmstar"]["full"]
    assert "where it looked" not in summary(folder)


def test_the_crops_alone_on_vstar_stand_beside_mgpos(tmp_path):
    rows = rows_of(questions(20), sound, "vstar")
    text = summary(write_evaluation(tmp_path / "a", rows))
    right = 100 * sum(row["strict"] for row in rows) / 20
    assert re.search(
        rf"from the crops alone: {right} \(.*\)\. MGPO's paper reports for V\*: base 47.1, GRPO 50.2", text
    )
    other = [row | {"mode": "full+crops"} for row in rows]
    assert "alone" not in summary(write_evaluation(tmp_path / "b", other))
    assert "47.1" not in summary(write_evaluation(tmp_path / "c", rows_of(questions(20), sound)))


def test_boxes_are_counted_where_a_benchmark_has_none(tmp_path):
    asked = questions(8)
    rows = rows_of(asked[:6], sound, "mmstar", boxed=False) + rows_of(asked[6:], blind, "mmstar", boxed=False)
    rows += rows_of(asked, blind, "mmstar", "full", boxed=False)
    found = metrics(read_evaluation(write_evaluation(tmp_path / "eval", rows)))["mmstar"]
    assert found["crops"]["valid_box"]["value"] == 0.75
    assert "valid_box" not in found["full"]
    assert "| valid box | 75.0 (25.0-100.0) |  |" in summary(tmp_path / "eval")


def test_lines_end_where_json_ends_them(tmp_path):
    """A model may write characters at which Python breaks lines."""
    rows = [row | {"text": "a\u2028b\x85c\u2029d"} for row in rows_of(questions(3), sound)]
    assert [row.text for row in read_evaluation(write_evaluation(tmp_path / "eval", rows)).rows] == [
        rows[0]["text"]
    ] * 3


def test_names_from_files_stay_names(tmp_path):
    asked = questions(8, categories=["a|b", "<img src=x>\n# c"])
    folder = write_evaluation(tmp_path / "eval", rows_of(asked, sound), model="[x](http://y)|`z`")
    text = summary(folder)
    assert "| a\\|b | 4 |" in text
    assert "| \\<img src=x> # c | 4 |" in text
    assert "# \\[x](http://y)\\|\\`z\\`" in text


def test_rows_that_could_not_be_asked_are_counted(tmp_path):
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(4), sound))
    (folder / "bad_rows.jsonl").write_text(
        json.dumps({"benchmark": "treebench", "where": "x:3", "problem": "no"}) + "\n"
    )
    assert "(bad_rows.jsonl): 1" in summary(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"strict": "yes"}, "predictions.jsonl:2: strict is 'yes': Input should be a valid boolean"),
        ({"cluster": None}, "predictions.jsonl:2: cluster is None: Input should be a valid string"),
        ({"boxes": [[1, 2, 3]]}, r"jsonl:2: boxes.0 is \[1, 2, 3\]: .* a box should be \[x1, y1, x2, y2, image\]"),
        ({"truth_boxes": [[9, 2, 3, 4, 0]]}, r"jsonl:2: truth_boxes.0 is \[9, 2, 3, 4, 0\]: .* x1 should be below x2"),
        ({"boxes": [[1, 2, float("inf"), 4, 0]]}, r"jsonl:2: boxes.0 is \[1, 2, inf, 4, 0\]: .* in pixels"),
        ({"grounding": {"grounded": True}}, "jsonl:2: grounding.grounded_targets is missing"),
        (
            {"grounding": {"grounded": True, "grounded_targets": 1, "targets": 0, "iou": 1, "coverage": 0}},
            "jsonl:2: grounding.targets is 0: .* greater than or equal to 1",
        ),
        ({"id": "0"}, "2 rows for 'treebench' 'crops' '0'; there should be one"),
    ],
)
def test_spoilt_rows_are_named(tmp_path, spoil, message):
    rows = rows_of(questions(3), sound)
    rows[1] |= spoil
    with pytest.raises(HartError, match=message):
        summary(write_evaluation(tmp_path / "eval", rows))


def test_folders_that_hold_no_whole_evaluation_are_refused(tmp_path):
    with pytest.raises(HartError, match="holds no evaluation"):
        summary(tmp_path)
    folder = write_evaluation(tmp_path / "eval", rows_of(questions(3), sound))
    whole = (folder / "predictions.jsonl").read_text()
    (folder / "predictions.jsonl").write_text(whole[:-20])
    with pytest.raises(HartError, match=r"predictions\.jsonl:3: not JSON .* was interrupted"):
        summary(folder)
    (folder / "predictions.jsonl").write_text(whole + "[" * 100_000 + "\n")
    with pytest.raises(HartError, match=r"predictions\.jsonl:4: not JSON"):
        summary(folder)
    (folder / "predictions.jsonl").write_bytes(whole.encode() + b"\xff\xfe\n")
    with pytest.raises(HartError, match=r"predictions\.jsonl:4: not JSON"):
        summary(folder)
    (folder / "predictions.jsonl").write_text("")
    with pytest.raises(HartError, match="is empty"):
        summary(folder)
    (folder / "predictions.jsonl").unlink()
    with pytest.raises(HartError, match=r"holds no predictions\.jsonl"):
        summary(folder)
    (folder / "eval.json").write_text("{}")
    with pytest.raises(HartError, match="which model"):
        summary(folder)
