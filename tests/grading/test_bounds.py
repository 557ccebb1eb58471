"""Reading takes linear time, whatever a model writes: the processor's time, since others use the machine, too."""

import time

import pytest

from hart_lite.grading import grade, read_answer

SIGNS = ("STOP", "SLOW", "EXIT", "OPEN")
SIZE = 100_000  # characters
LIMIT_S = 2.0  # ordinary texts of that size take 0.1 s
PIECES = (
    *(
        "answer is ",
        "answer is: A car ",
        "answer",
        "Answer: none. ",
        "answer is A. B\n",
        r"\boxed{",
        r"\boxed{}",
        r"\text{",
    ),
    *(
        "<answer>",
        "</answer>",
        "<answer> </answer>",
        "<think>",
        "</think>",
        "<|im_end|>",
        "<b>",
        "(",
        " ",
        "\n",
        "{}",
        "*",
    ),
    *(
        "A. ",
        "A. \n",
        "A) ",
        "(A) ",
        "(A) or (B) ",
        "- (A)\n",
        "not (A) ",
        "A or B, ",
        "so B is correct ",
        "B - ",
        "| A |\n",
    ),
    *("A, B, C, ", "is it A? ", "STOP ", "STOP, SLOW or ", "no, ", "wait, A. ", "that is wrong. ", "if A ", "x: A\n"),
    *("option ", ",", "1", "1,000,", "1 1 ", "12:30 ", "5'", '"', "“", "‘a", "**a", "`a", "$a", "\\frac{", "^{", "\\,"),
    *("the the ", "Dr. ", "l'", "it's ", "不是A，", "답은 ", "\ufdfa", "I am not sure. ", "? ", "not sure? "),
)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("choices", [SIGNS, ()], ids=["letters", "free"])
def test_hostile_text_is_read_in_bounded_time(piece, choices):
    text = (piece * (SIZE // len(piece) + 1))[:SIZE]
    began = time.process_time()
    grade(text, "A", choices)
    grade(text + "}" * (SIZE // 2), "A", choices)
    assert time.process_time() - began < 2 * LIMIT_S


@pytest.mark.parametrize(
    "piece", ["A is wrong, B is right. ", "The answer is A? No, it is B.\n", "STOP or SLOW, not EXIT; "]
)
def test_twice_the_text_takes_no_more_than_twice_the_time(piece):
    def took(size: int) -> float:
        began = time.process_time()
        for _ in range(2):
            read_answer(piece * (size // len(piece)), SIGNS)
        return time.process_time() - began

    took(1000)
    small, large = min(took(8_000) for _ in range(3)), min(took(32_000) for _ in range(3))
    assert large < 10 * small  # 4 when linear, 16 when quadratic


def test_long_reasoning_is_read_at_both_ends():
    filler = "The picture shows a street with many cars. " * 3000
    assert read_answer(f"C\n\n{filler}", SIGNS) == read_answer(f"{filler}\n\nAnswer: C", SIGNS) == "C"
    assert read_answer(f"{filler}\\boxed{{C}}{filler}", SIGNS) == "C"
    assert grade(f"{filler}\nAnswer: 12", "12")
