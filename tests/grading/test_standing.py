"""What a text says of a choice beside naming it: it lists, contrasts, doubts or takes back, or thinks aloud."""

import pytest

from hart_lite.grading import grade, read_answer

SIGNS = ("STOP", "SLOW", "EXIT", "OPEN")


@pytest.mark.parametrize(
    "text",
    [
        "Everything points to C; A and B are red.",
        "Not A, not B, definitely C.",
        "Not B: C.",
        "Unlike A, B and D, C has a door.",
        "The right answer, C, is supported by the door; A is not.",
        "The choices are (A) STOP, (B) SLOW, (C) EXIT, (D) OPEN. The sign is green. (C)",
        "A is a stop, B is a slow, C is an exit, D is an open. I see a door. It's C.",
        "The answer is C. Many people would answer A.",
        "Answer: C\n\nCommon mistake: choosing A.",
        "Answer: C. Second best: A.",
        "So the answer's C.",
        "The sign is not STOP but EXIT.",
        "The answer is C. STOP (A) corresponds to the red sign.",
        "Many would pick (A). I take C as my answer.",
        "It is A or C. Since there is a door, C.",
        "STOP and SLOW are on the street. All things considered, EXIT.",
    ],
)
def test_another_choice_that_is_merely_named_does_not_win(text):
    assert read_answer(text, SIGNS) == "C"


@pytest.mark.parametrize(
    "text",
    [
        "The answer is A or the answer is C.",
        "The answer is C... or is it A?",
        r"\boxed{A} \text{ or } \boxed{C}",
        "The correct answer isn't listed. C is the closest but wrong.",
        "C is less likely than the others.",
        "The answer could be any of C to D.",
        "The answer is C. No wait, that is the other sign. I don't know.",
        "A is STOP, B is SLOW, C is EXIT, D is OPEN.",
        "Some students pick (C).",
        "The answer is C. No, sorry. I'd rather not answer.",
        "Maybe C, and maybe also A.",
        "The left sign is OPEN. The right sign is EXIT.",
        "I look at the signs one by one. The first is OPEN, the second",
        "The answer is C. Wait, the sign on the",
    ],
)
def test_nothing_is_read_from_what_stays_undecided(text):
    assert read_answer(text, SIGNS) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The jersey bears the number 42, not 24.", "42"),
        ("The bag is green (the one on the left).", "green"),
        ("It's called O\u2019Neill\u2019s.", "O'Neill's"),
        ("She is holding an umbrella.", "umbrella"),
        ("I thought it was red, but it is blue.", "blue"),
        ("The shoes are Adidas rather than Nike.", "Adidas"),
        ("Answer: 15 people", "15"),
    ],
)
def test_what_a_sentence_says_in_free_text(text, answer):
    assert grade(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The jersey bears the number 42, not 24.", "24"),
        ("I thought it was red, but it is blue.", "red"),
        ("The shoes are Adidas rather than Nike.", "Nike"),
        ("She holds a bag, and not an umbrella.", "umbrella"),
        ("It is green (or blue, I cannot say).", "green"),
        ("The vehicle in front of the bus is a truck.", "bus"),
        ("5 cm", "5"),
        ("I would rather not say that it is red.", "red"),
    ],
)
def test_what_a_sentence_names_and_does_not_say(text, answer):
    assert not grade(text, answer)


@pytest.mark.parametrize(
    "text",
    [
        "<think>Option (B) looks right, however I must",
        "<thinking>B",
        "<think>so \\boxed{B}",
        "The shop is closed.\u25c1think\u25b7 maybe B",
    ],
)
def test_a_thought_that_was_cut_off_answers_nothing(text):
    assert read_answer(text, SIGNS) is None


def test_thoughts_of_other_models():
    for text in (
        "<thinking>A</thinking>B",
        "[THINK]A[/THINK]B",
        "\u25c1think\u25b7A\u25c1/think\u25b7B",
        "A?</think>B",
    ):
        assert read_answer(text, SIGNS) == "B", text
    assert read_answer("<think>A or B? <answer>B</answer>", SIGNS) == "B"  # forgot to close it, but ended in its answer
    assert read_answer("<|begin_of_box|>B<|end_of_box|>", SIGNS) == "B"
    assert read_answer(r"The answer is \boxed{B", SIGNS) == "B"
