"""Choices that stand in a question leave it; what only looks like choices stays."""

import json

import pytest

from hart_lite.data.dataset import load_examples
from hart_lite.data.options import as_choices, without_options
from hart_lite.errors import HartError

INSTRUCTIONS = [
    "",
    "\nAnswer with the option's letter from the given choices directly.",
    "\n\nPlease select the correct answer from the options above.",
    "\nRespond with only the letter of the correct option.",
    "\n请直接回答选项字母。",
]
FORMS = [
    "Colour?\nA. red\nB. dark blue",
    "Colour?\nA) red\nB) dark blue",
    "Colour?\n(A) red\n(B) dark blue",
    "Colour?\n  A: red\n  B: dark blue",
    "Colour?\na) red\nb) dark blue",
    "Colour?\nA.red\nB.dark blue",
    "Colour?\n（A） red\n（B） dark blue",
    "Colour?\nA．red\nB、dark blue".replace("、", "．"),
    "Colour?\nOptions:\nA. red\nB. dark blue",
    "Colour? Options: A: red, B: dark blue",
    "Colour?\nChoices:\n(A) red\n(B) dark blue",
    "Colour?\nThe choices are listed below:\n(A) red\n(B) dark blue",
    "Colour?\n选项：\nA. red\nB. dark blue",
    "Colour? (A) red (B) dark blue",
    "Colour? A. red B. dark blue",
]


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("answer", ["B", "dark blue", "(B) dark blue"])
def test_options_in_a_question_become_its_choices(form, instruction, answer):
    assert without_options(form + instruction, (), answer) == ("Colour?", ("red", "dark blue"))


def test_the_signs_of_a_question_stay_as_they_were_written():
    assert without_options("图中是什么颜色？\n（A）红\n（B）蓝", (), "A") == ("图中是什么颜色？", ("红", "蓝"))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Compare (A) and (B): which is larger?", "A"),
        ("How many of these are true?\nA. It is red.\nB. It is blue.", "2"),
        ("Is A: big? B: small?", "big"),
        ("Which letter follows A. and B.?", "C"),
        ("What colour is it? Answer in one word.", "red"),
        ("What does plan A) say?", "A"),
    ],
)
def test_what_is_no_choice_stays_in_the_question(question, answer):
    assert without_options(question, (), answer) == (question, ())


def test_a_letter_that_no_option_has_is_refused():
    with pytest.raises(HartError, match="'E' is not one of the choices: A='red'"):
        without_options("Colour?\nA. red\nB. blue", (), "E")


def test_choices_given_twice_leave_the_question_and_other_choices_do_not():
    question = "Colour?\nA. red\nB. blue"
    assert without_options(question, ("Red", "Blue"), "B") == ("Colour?", ("Red", "Blue"))
    assert without_options(question, ("one", "two"), "B") == (question, ("one", "two"))


@pytest.mark.parametrize(
    "form", ["{}. {}", "{}) {}", "{}: {}", "({}) {}", "( {} ) {}", "（{}） {}", "（{}）{}", "{}．{}", "{}、{}", "{}.{}"]
)
@pytest.mark.parametrize("letters", ["AB", "ab"])
def test_labels_of_every_form_are_dropped(form, letters):
    choices = [form.format(letter, text) for letter, text in zip(letters, ("红 1", "blue"), strict=True)]
    assert as_choices(choices) == ("红 1", "blue")
    assert as_choices(str(choices)) == as_choices("\n".join(choices)) == as_choices(choices)


@pytest.mark.parametrize("choices", [["A, then B", "B, then A"], ["A", "B"], ["a cat", "b cat"], ["B. x", "A. y"]])
def test_what_is_no_label_stays(choices):
    assert as_choices(choices) == tuple(choices)


def test_rows_are_read_without_labels_options_and_markers(tmp_path, picture):
    rows = [
        {"question": "<image>\nColour?\nA. red\nB. blue", "answer": "B. blue"},
        {"question": "Colour?", "choices": ["（A） red", "（B） blue"], "answer": "blue"},
        {"question": "Colour?<Image>", "choices": ["red", "blue"], "answer": "(B) blue"},
        {"question": "<img>a.png</img>Colour?", "choices": "(A) red\n(B) blue", "answer": "B"},
    ]
    lines = [json.dumps(row | {"image": picture}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    for example in load_examples(tmp_path / "rows.jsonl"):
        assert (example.question, example.choices, example.answer) == ("Colour?", ("red", "blue"), "B")
