"""The official scorers, to the letter: responses, the verdict of the published scripts, and our grader's beside it."""

import pytest
from damage import processor_seconds

from hart_lite.eval.benchmarks.official_scorers import (
    hrbench_letter,
    mme_realworld_letter,
    mmstar_right,
    treebench_miou,
    treebench_right,
    visual_cot_form,
    vstar_letter,
)
from hart_lite.eval.benchmarks.registry import BENCHMARKS
from hart_lite.grading import grade
from hart_lite.types import Example

LABELLED = ["(A) A bus", "(B) A truck", "(C) a tree", "(D) nothing", "(E) The image does not feature it."]
CHOICES = ("A bus", "A truck", "a tree", "nothing", "The image does not feature it.")

# response -> what `extract_characters_regex` reads
MME = {
    "B": "B",
    "(C) a tree": "C",
    "The best answer is C": "C",
    "The best answer is: (D)": "D",
    "The answer is E.": "E",
    "Based on the image, it is C.": "B",
    "A car is next to it, so C": "A",
    "Every option but C is wrong": "E",
    "Best answer: C": "B",  # a prefix without its comma
    "The best option is D": "D",  # not removed, but holds no capital A to E
    "The best option is a tree": "",  # .. so that no choice's text is left
    "The Correct option is D": "C",
    "Detail shows C": "D",
    "nothing": "D",  # a choice's text
    "The answer is a tree": "C",
    "tree": "C",
    "tr": "B",  # .. or any part of one; "(B) A truck" comes first
    "": "A",  # the empty text is in every choice
    "   ": "A",
    "unicorn": "",
    "it is hard to see what this is in the photo at all": "",  # over ten words and no letter
    "\\boxed{C}": "C",
    "<answer>C</answer>": "C",
}


@pytest.mark.parametrize("response", MME)
def test_mme_realworld(response):
    assert mme_realworld_letter(response, LABELLED) == MME[response]


@pytest.mark.parametrize(
    "response, official, right",
    [
        ("Based on the image, the answer is C.", "B", "C"),
        ("A car stands there. The answer is (C).", "A", "C"),
        ("Every sign is small. \\boxed{C}", "E", "C"),
        ("Best answer: C", "B", "C"),
        ("", "A", None),
    ],
)
def test_our_grader_is_right_where_mme_realworlds_is_not(response, official, right):
    example = Example("1", (), "Which?", "C", CHOICES)
    benchmark = BENCHMARKS["mme-realworld-lite"]
    assert mme_realworld_letter(response, LABELLED) == official
    assert not benchmark.official(response, example)
    assert grade(response, "C", CHOICES) == (right == "C")


# response -> what lmms-eval's `extract_answer_letter` reads
VSTAR = {
    "A": "A",
    "b": "B",
    "(C)": "C",
    "D. leather": "D",
    "DIRECTLY under it, so A": "D",
    "Based on the photo: C": "B",
    "cotton": "C",
    "The answer is B": "B",
    "The answer is: (B)": "B",
    "the answer blue": "B",
    "Option: C": "C",
    "Left. I think (B), or (A).": "B",
    "Right side, red.": "D",  # "RED."
    "Left, so B then": "B",
    "It is B": "B",
    "kevlar": "A",  # the only A to D in it
    "leather": "A",
    "rubber": None,  # two B, no rule
    "": None,
    "I think so": None,
    "My choice\n\nis :: A": "A",
}


@pytest.mark.parametrize("response", VSTAR)
def test_vstar(response):
    assert vstar_letter(response) == VSTAR[response]


def test_our_grader_is_right_where_vstars_is_not():
    example = Example("0", (), "Of what?", "C", ("rubber", "cotton", "kevlar", "leather"))
    official = BENCHMARKS["vstar"].official
    for response in ("Kevlar it is: the answer is C.", "DIRECTLY: the answer is C.", "kevlar", "**C**"):
        assert grade(response, "C", example.choices), response
    assert not official("DIRECTLY: the answer is C.", example)
    assert not official("kevlar", example)  # reads A
    assert official("Cotton", example) and not grade("Cotton", "C", example.choices)


HR_CHOICES = ("red", "blue", "dark green", "white")
# response -> what lmms-eval's `can_infer` reads; None: it would ask a judge
HRBENCH = {
    "A": "A",
    "B. blue": "B",
    "(D)": "D",
    "The answer is C.": "C",
    "A dog stands near": "A",
    "A dog stands near D": None,  # two letters, and no choice's text
    "A red dog, not D": "A",  # .. but one choice's text
    "**B**": "B",
    "*C*!": "C",
    "Answer: B;": "B",
    "b": None,
    "it is blue": "B",
    "Blue, or white": None,
    "dark green": "C",
    "\\boxed{B}": "B",
    "Z": "Z",
    "Z, blue": "Z",  # refused before the text is looked at
    "A or B, no Z: blue": "B",
    "Cannot determine the answer, blue": "Z",
    "I can't process this file.": "Z",
    "Failed to obtain answer via API": None,
    "Failed to obtain answer via API: blue B": "B",  # by its text
    "": None,
    "purple": None,
}


@pytest.mark.parametrize("response", HRBENCH)
def test_hrbench(response):
    assert hrbench_letter(response, HR_CHOICES) == HRBENCH[response]


def test_hrbench_counts_as_wrong_where_a_judge_would_be_asked():
    example = Example("0@0", (), "Which?", "B", HR_CHOICES)
    for size in ("4k", "8k"):
        official = BENCHMARKS[f"hrbench{size}"].official
        assert official("it is blue", example)
        assert not official("b", example) and grade("b", "B", HR_CHOICES)
        assert not official("A car and a bus: the answer is B", example)
    assert grade("A car and a bus: the answer is B", "B", HR_CHOICES)


@pytest.mark.parametrize(
    "response, right, strict",
    [
        ("B", True, True),
        ("b", True, True),
        (" B: blue", True, True),
        ("(B) blue", True, True),
        ("Option B", True, True),
        ("option b.", True, True),
        ("The answer is B", True, True),
        ("The answer is B.", True, True),
        ("Because it is white", True, False),
        ("The answer is (B)", False, True),
        ("The answer is: B", False, True),
        ("Answer: B", False, True),
        ("I see a car.\nB", False, True),
        ("Option (B)", False, True),
        ("", False, False),
        ("(", False, False),
        ("option", False, False),
        ("D", False, False),
    ],
)
def test_mmstar(response, right, strict):
    assert mmstar_right(response, "B") is right
    assert BENCHMARKS["mmstar"].official(response, Example("0", (), "?", "B", HR_CHOICES)) is right
    assert grade(response, "B", HR_CHOICES) is strict


@pytest.mark.parametrize(
    "response, right",
    [
        ("C", True),
        ("c", True),
        ("<think>A or C?</think><answer>C</answer>", True),
        ("<answer>\n c \n</answer>", True),
        ("<answer>A</answer> no: <answer>C</answer>", False),  # the first pair
        ("<answer>A", False),
        ("<answer>C", False),  # not closed: the whole response
        ("<ANSWER>C</ANSWER>", False),
        (" C", False),
        ("C.", False),
        ("C<|im_end|>", False),
        ("The answer is C", False),
        ("<answer>C. green</answer>", False),
        ("<answer></answer>", False),
        ("</answer><answer>C</answer>", True),
        ("", False),
    ],
)
def test_treebench_answer(response, right):
    assert treebench_right(response, "C") is right


@pytest.mark.parametrize("response", ["C.", "The answer is C", "<answer>C. green</answer>", " C"])
def test_our_grader_is_right_where_treebenchs_is_not(response):
    assert grade(response, "C", ("red", "blue", "green", "white"))


def test_treebench_miou_by_hand():
    truth = [[0, 0, 10, 10], [20, 20, 30, 40]]
    assert treebench_miou("<box>[0,0,10,10]</box>", truth) == pytest.approx(1 / 2)
    assert treebench_miou("<box>[0,0,10,10]</box> and <box>[20,20,30,30]</box>", truth) == pytest.approx((1 + 0.5) / 2)
    # recall-style: superfluous boxes cost nothing, the best one counts for each target
    many = "<box>[0,0,10,5]</box><box>[0,0,10,10]</box><box>[50,50,60,60]</box><box>[20,20,30,30]</box>"
    assert treebench_miou(many, truth) == pytest.approx(0.75)
    assert treebench_miou("<box>[0,0,100,100]</box>", truth) == pytest.approx((100 / 10000 + 200 / 10000) / 2)
    assert treebench_miou("<box> [0,0,10,10] on the left</box>", truth) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "response",
    [
        "<box>[0, 0, 10, 10]</box>",  # spaces
        "[0,0,10,10]",
        "<box>[0.0,0.0,10.0,10.0]</box>",
        "<box>[10,10,0,0]</box>",  # corners swapped
        "<box>[-1,0,10,10]</box>",
        "<box>[0,0,10,10]",
        "<box>at [0,0,10,10]</box>",
        '[{"bbox_2d": [0, 0, 10, 10]}]',
        "",
    ],
)
def test_treebench_miou_reads_its_own_format_only(response):
    assert treebench_miou(response, [[0, 0, 10, 10]]) == 0


def test_treebench_miou_takes_the_image_number_of_a_row_for_no_number():
    assert treebench_miou("<box>[0,0,10,10]</box>", [[0.0, 0.0, 10.0, 10.0, 0]]) == 1
    assert treebench_miou("<box>[0,0,10,10]</box>", []) == 0


def test_visual_cot_counts_only_what_repeats_the_answer():
    example = Example("gqa/7", (), "What is it?", "A window")
    official = BENCHMARKS["visual-cot"].official
    assert official("a window.", example)
    assert not official("The answer is a window.", example)  # a judge's, and ours: right
    assert grade("The answer is a window.", "A window")


@pytest.mark.parametrize(("text", "answer"), [("the window", "A window"), ("three", "3"), (".5", "0.5"), ("½", "1/2")])
def test_what_the_grader_has_learned_leaves_the_official_column_of_visual_cot_alone(text, answer):
    assert grade(text, answer)
    assert not BENCHMARKS["visual-cot"].official(text, Example("gqa/7", (), "What is it?", answer))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1,000", "1000"),
        ("+3.0", "3"),
        ("-0.0", "0"),
        ("007", "007"),
        ("\uff33TOP!", "stop"),
        ("?", "?"),
        ("'A  b'.", "a b"),
    ],
)
def test_the_form_in_which_visual_cot_is_compared(text, form):
    assert visual_cot_form(text) == form


@pytest.mark.parametrize("unit", ["A ", "answer is ", "<box>", "<box>[1,1,", "<answer>", "(", " \n", "a" * 5, "[9" * 2])
def test_reading_takes_linear_time(unit):
    text = unit * (400_000 // len(unit))
    with processor_seconds(5.0):
        mme_realworld_letter(text.lower(), LABELLED)
        vstar_letter("x" + text.lower().replace("a", "x"))
        hrbench_letter(text, HR_CHOICES)
        mmstar_right(text, "B")
        treebench_right(text, "B")
        treebench_miou(text, [[0, 0, 1, 1]])
        visual_cot_form(text)
