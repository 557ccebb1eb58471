import time

import pytest

from hart_lite.answers import answer_letter, choice_lines, grade, normalise, read_answer
from hart_lite.types import HartError

SIGNS = ("STOP", "SLOW", "EXIT", "OPEN")


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{C}",
        r"\boxed{\text{C}}",
        r"so $\boxed{(C)}$.",
        r"\boxed{EXIT}",
        "<answer>C</answer>",
        "<answer> c </answer>",
        "<answer>C. EXIT",
        r"<answer>\boxed{C}</answer>",
        "(C)",
        "C.",
        "C",
        "c",
        " **C** ",
        "\uff23",
        "Option C",
        "C. EXIT",
        "C: EXIT",
        "C) it hangs above the door",
        "C because the sign is green",
        "Answer: C",
        "Answer:\nC",
        "Final answer: **C**",
        "The best answer is C",
        "The best answer is (C) EXIT.",
        "The answer is C. The sign is green.",
        "The correct option is C.",
        "K (C)",
        "Answer: K (C)",
        "EXIT",
        "exit.",
        "The answer is EXIT. It is green.",
        "The sign is green.\nC",
        "Based on the sign above the door it is (C)",
        "It could be (A), but it is (C)",
        r"\boxed{A}? No. \boxed{C}",
        "Answer: A. Wait. Answer: C",
        "<answer>C</answer> since the answer is not STOP",
        r"Put it in \boxed{}. The answer is C",
    ],
)
def test_reads_c(text):
    assert read_answer(text, SIGNS) == "C"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n ",
        "Based on the sign",
        "A car",
        "A car is parked in front",
        "Answer: A car",
        "Every sign",
        "Exit STOP",
        "E",
        "(Z)",
        r"\boxed{E}",
        r"\boxed{A} no, \boxed{E}",
        "e.g. nothing",
        "D.C. is a city",
        "I do not know",
        "A. no\nB. no either",
        "C#",
    ],
)
def test_reads_nothing(text):
    assert read_answer(text, SIGNS) is None


def test_a_letter_is_the_label_even_where_choices_are_letters():
    glyphs = ("K", "C", "B", "7")
    assert read_answer("C", glyphs) == "C"
    assert read_answer("K", glyphs) == "A"
    assert read_answer("7", glyphs) == "D"
    assert read_answer("The answer is 7.0", glyphs) == "D"


def test_the_text_of_two_choices_is_no_answer():
    assert read_answer("3.0", ("3", "3", "4")) is None
    assert read_answer("kg", ("kg", "KG")) == "A"


def test_reads_free_text():
    assert read_answer(r"It is \boxed{12 km}") == "12 km"
    assert read_answer("<answer>Main St.</answer> I think") == "Main St."
    assert read_answer("The answer is STOP. It is red.") == "STOP"
    assert read_answer("Answer: 3.5 m\nbye") == "3.5 m"
    assert read_answer("  STOP\n") == "STOP"
    assert read_answer(" \n") is None
    assert read_answer("$5") == "$5"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1,000", "1000"),
        ("3.0", "3"),
        ("+3", "3"),
        ("-0.0", "0"),
        ("Main  St.", "main st"),
        ("\uff33TOP", "stop"),
        ("1,250.50", "1250.5"),
    ],
)
def test_equal_after_normalisation(a, b):
    assert grade(a, b) and grade(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [("007", "7"), ("3.1", "3"), ("-3", "3"), ("1,00", "100"), ("?", "!"), (".5", "5"), ("$5", "5"), ("", "x")],
)
def test_different_after_normalisation(a, b):
    assert not grade(a, b)


def test_long_numbers_keep_every_digit():
    assert normalise("1" * 40) != normalise("1" * 39 + "2")


def test_grade_with_choices():
    assert grade("(B)", "B", SIGNS)
    assert grade("(B)", "slow", SIGNS)
    assert grade("slow", "B", SIGNS)
    assert not grade("(B)", "C", SIGNS)
    assert not grade("no idea", "C", SIGNS)


def test_answer_letter():
    assert answer_letter("d", SIGNS) == "D"
    assert answer_letter("(D)", SIGNS) == "D"
    assert answer_letter("Open", SIGNS) == "D"
    with pytest.raises(HartError, match=r"'E' is not one of the choices: A='STOP'"):
        answer_letter("E", SIGNS)
    with pytest.raises(HartError, match="not one of the choices"):
        grade("A", "yellow", SIGNS)


def test_choice_lines():
    assert choice_lines(["STOP", "SLOW"]) == "The choices are listed below:\n(A) STOP\n(B) SLOW"
    with pytest.raises(HartError, match="27 choices; at most 26"):
        choice_lines(["x"] * 27)


@pytest.mark.parametrize(
    "piece",
    [
        "answer is ",
        "answer is: A car ",
        r"\boxed{",
        r"\boxed{}",
        r"\text{",
        "<answer>",
        "</answer>",
        "(",
        " ",
        "\n",
        "answer",
        "A. ",
        "{}",
        "*",
        "option ",
        ",",
        "1,000",
    ],
)
@pytest.mark.parametrize("choices", [SIGNS, ()])
def test_hostile_text_is_read_in_bounded_time(piece, choices):
    text = piece * (100_000 // len(piece))
    start = time.perf_counter()
    grade(text, "A", choices)
    grade(text + "}" * 50_000, "A", choices)
    assert time.perf_counter() - start < 3
