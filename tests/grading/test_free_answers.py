"""Answers in free text, and the form in which they are compared."""

import pytest

from hart_lite.errors import HartError
from hart_lite.grading import check_answer, grade, normalise, read_answer


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


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\u201cSTOP\u201d", "STOP"),
        ("\u300c停\u300d", "停"),
        ("停！", "停"),
        ("\u22125", "-5"),
        (".5", "0.5"),
        ("½", "1/2"),
        ("2½", "2 1/2"),
        (r"\boxed{90^\circ}", "90°"),
        (r"12\%", "12 %"),
        ("12.5 %", "12.5%"),
        (r"5\text{cm}", "5 cm"),
        ("$5.00", "$5"),
        ("three", "3"),
        ("a dog", "The dog"),
        ("10⁵", "10^5"),
        (r"\frac{1}{2}", "1/2"),
    ],
)
def test_spellings_of_one_answer(text, answer):
    assert grade(text, answer) and grade(answer, text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5'", "5"),
        ('5"', "5"),
        ("10⁵", "105"),
        ("5½", "51/2"),
        ("5%", "5"),
        ("3 or 4", "3"),
        ("3\n4", "3"),
        ("A 113", "113"),
    ],
)
def test_what_is_another_answer(text, answer):
    assert not grade(text, answer) and not grade(answer, text)


@pytest.mark.parametrize(
    "answer",
    ["St. Mary's Church", "Dr. Smith", "J. K. Rowling", "No. 5 Main St. North", "U.S. Route 66", "Washington D.C."],
)
def test_the_dot_of_an_abbreviation_ends_no_sentence(answer):
    for text in (
        f"Answer: {answer}",
        f"The answer is {answer}. It is on the sign.",
        f"The answer is: {answer}",
        answer,
    ):
        assert grade(text, answer), text
    assert not grade(f"Answer: {answer}", answer.partition(".")[0])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The car is blue.", "blue"),
        ('The sign says "EXIT".', "EXIT"),
        ("There are 3 dogs.", "3"),
        ("There are three dogs.", "3"),
        ("The clock shows 7:45.", "7:45"),
        ("Yes, there is a cat.", "yes"),
        ("EXIT\n\nThe sign hangs above the door.", "EXIT"),
        ("The answer is EXIT because the sign is green.", "EXIT"),
        ('{"answer": "EXIT"}', "EXIT"),
        ("The answer is SLOW. Wait, the answer is EXIT.", "EXIT"),
        ("<think>SLOW?</think>EXIT", "EXIT"),
    ],
)
def test_an_answer_in_a_sentence(text, answer):
    assert grade(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The car is not blue.", "blue"),
        ("There are 3 dogs and 4 cats.", "3"),
        ("There are 13 dogs.", "3"),
        ("No, there is none.", "yes"),
        ("The answer is not EXIT.", "EXIT"),
        ("Is it EXIT?", "EXIT"),
        ("<think>EXIT", "EXIT"),
        ('It says "EXIT" or "EXIST".', "EXIT"),
    ],
)
def test_no_answer_in_a_sentence(text, answer):
    assert not grade(text, answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<answer> 3 </answer>", "3"),
        (r"\boxed{3}", "3"),
        ("2**3", "2**3"),
        ("Option: Large", "Large"),
        ("(B)", "B"),
        ("<think>I see blue</think><answer>Blue</answer>", "Blue"),
    ],
)
def test_a_rows_answer_is_read_like_the_response(answer, text):
    check_answer(answer)
    assert grade(answer, answer) and grade(text, answer) and grade(answer, text)


@pytest.mark.parametrize("answer", ["<think>3", "<answer></answer>", "\u200b", "I am not sure"])
def test_a_rows_answer_that_nothing_can_match_is_refused(answer):
    with pytest.raises(HartError, match="no response would be right"):
        check_answer(answer)


@pytest.mark.parametrize(
    "text",
    [
        '` `json\n[{"bZox_2d"220label"\ufffd and\ufffdmore',
        '` `json\n[{"bZox_2d"22    el"\ufffd and\ufffdmore',
        "the the cat",
        "T\u00a8\\",
        "\"'5'\".",
    ],
)
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)
