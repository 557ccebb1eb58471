"""Which letter a response gives as its answer, and which a row's answer is."""

import pytest

from hart_lite.errors import HartError
from hart_lite.grading import answer_letter, choice_lines, grade, read_answer, unlabelled

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
        # the same answer in the words and marks of other models
        "**Answer**: C",
        "**Answer:** C",
        '{"answer": "C", "confidence": 0.9}',
        "The letter is C",
        "ANSWER: (c) Exit",
        "c) exit",
        "C - EXIT",
        "**C** - EXIT",
        "C.EXIT",
        "C, EXIT",
        "Option C: EXIT",
        r"\boxed{C, EXIT}",
        r"\boxed{\mathrm{\text{C}}}",
        r"\(C\)",
        "C<|im_end|>",
        "Answer: C</s>",
        "\u200bC\ufeff",
        # reasoning, of which only the end counts
        "<think>The answer is A.</think>C",
        r"<think>\boxed{A}? Or B.</think> The answer is C",
        "<think>The answer is C</think>",
        "Thus, C is correct.",
        "(C) is correct; (A) hangs elsewhere.",
        "Option C is correct because of the door.",
        "I would choose C.",
        "I'd go with option C, not (A)",
        "A. STOP: no\nB. SLOW: no\nC. EXIT: yes\n\nSo C.",
        "(A) STOP is red.\n(B) SLOW is yellow.\nThe sign is green, so it must be C.",
        "The answer is C, so option A is wrong",
        "The answer is C (see (A) for the contrary).",
        "The answer is C. Why not A or B? They hang elsewhere.",
        "The answer is (A)? No, (C).",
        # denials
        "It is not (A), it is (C). It isn't (B)",
        "The answer is not (A) but (C)",
        "Is it (A)? If (A) was meant, it would be red. It is (C), it cannot be (A).",
    ],
)
def test_reads_c_in_the_words_of_others(text):
    assert read_answer(text, SIGNS) == "C"


@pytest.mark.parametrize(
    "text",
    [
        # several at once
        "The answer is (A) or (C).",
        "Either (A) or (C)",
        "(A), (C)",
        "A, C",
        "Answer: A/C",
        "Answer: A and C",
        "Answer: C or maybe A",
        "Answer: C. On second thought: Answer: A or C",
        r"\boxed{A or C}",
        r"\boxed{C,A}",
        "None of (A), (B), (C), (D)",
        "(A) STOP (B) SLOW (C) EXIT (D) OPEN",
        # the choices once more, and nothing else
        "A. STOP\nB. SLOW\nC. EXIT\nD. OPEN",
        "The choices are listed below:\n(A) STOP\n(B) SLOW\n(C) EXIT",
        "- (B) SLOW\n- (C) EXIT",
        # denials
        "The answer is not (C).",
        "The answer isn't (C)",
        "It cannot be option (C)",
        "I don't think that C is correct.",
        "Whether C is correct?",
        # refusals
        "I'm sorry, but I can't help with that.",
        "A refusal",
        "The answer is: I don't know",
        "<think>The answer is C. But no.</think> I cannot tell.",
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


def test_twelve_choices():
    twelve = [f"sign {n}" for n in range(1, 13)]
    for text in ("L", "(l)", "The answer is L.", "sign 12", "L. sign 12", "So L is correct."):
        assert read_answer(text, twelve) == "L", text
    assert read_answer("The answer is I.", twelve) == read_answer("Option I", twelve) == "I"
    assert read_answer("The answer is I think not there", twelve) is None
    assert read_answer("M", twelve) is None


def test_choices_with_commas_brackets_and_colons():
    choices = ("red, white", "blue, (dark)", "green: light", "A. none")
    for text, letter in {
        "The answer is red, white.": "A",
        "(B) blue, (dark)": "B",
        r"\boxed{green: light}": "C",
        "D. A. none": "D",
        "A. none": "D",
        "red": None,
    }.items():
        assert read_answer(text, choices) == letter, text


def test_the_text_of_two_choices_is_no_answer():
    assert read_answer("3.0", ("3", "3", "4")) is None
    assert read_answer("kg", ("kg", "KG")) == "A"


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
    "answer",
    ["<answer> B </answer>", r"\boxed{B}", "B. SLOW", "(B) slow", "b) SLOW", "Option B", "SLOW.", "（B） SLOW"],
)
def test_a_rows_answer_is_read_like_a_models(answer):
    assert answer_letter(answer, SIGNS) == "B" and grade(answer, answer, SIGNS)


@pytest.mark.parametrize("answer", ["A or B", "not A", "<think>A", "", "(Z)", "B?", "The answer is none of these."])
def test_an_answer_that_names_no_choice_is_refused(answer):
    with pytest.raises(HartError, match="is not one of the choices"):
        answer_letter(answer, SIGNS)


@pytest.mark.parametrize("form", ["({}) {}", "{}. {}", "{}) {}", "{}: {}", "\uff08{}\uff09 {}", "{}\u3001{}", "({}){}"])
def test_labels_of_choices_are_no_part_of_them(form):
    choices = [form.format(letter, text) for letter, text in zip("ABCD", SIGNS, strict=True)]
    assert unlabelled(choices) == SIGNS
    assert read_answer("slow", choices) == read_answer("B. SLOW", choices) == "B"
    assert unlabelled([form.format(letter.lower(), text) for letter, text in zip("ABCD", SIGNS, strict=True)]) == SIGNS


def test_what_looks_like_labels_but_is_not_in_order_stays():
    for choices in (("B. blue", "A. red"), ("A. red", "blue"), ("A", "B"), ("D.C.", "N.Y."), ()):
        assert unlabelled(choices) == choices


def test_choices_that_are_names_with_letters():
    points = ("Point A", "Point B", "Point C")
    for text in ("point B", 'It corresponds to point "B".', "Point B is the best match.", "The answer is B"):
        assert read_answer(text, points) == "B", text
    shuffled = ("Point C", "Point A", "Point B")
    assert read_answer("Point C", shuffled) == "A" and read_answer("C", shuffled) == "C"
    assert read_answer("Point A and point B are on the wall.", points) is None


def test_choices_that_are_words_of_the_grammar():
    sides = ("left", "right")
    for text, letter in {
        "The door is on the right.": "B",
        "A is right.": "A",
        "It is left of the tree, so A is right.": "A",
        "The answer is right.": "B",
        "left or right": None,
    }.items():
        assert read_answer(text, sides) == letter, text
    answers = ("Yes", "No")
    for text, letter in {
        "No, there is none.": "B",
        "Yes. No car is in sight.": "A",
        "There is no car.": None,
        "(A) Yes\n(B) No": None,
        "Based on the image, no.": "B",
    }.items():
        assert read_answer(text, answers) == letter, text


def test_a_letter_and_the_text_of_another_choice_contradict():
    for text in ("C. STOP", "The answer is (C) STOP.", "STOP (C)", r"\boxed{C. STOP}"):
        assert read_answer(text, SIGNS) is None, text


@pytest.mark.parametrize(
    "text", ["C\n\n(A) is wrong because the sign is green.", "**C**\n\nOption (A) shows a red sign."]
)
def test_the_letter_comes_first_and_reasons_follow(text):
    assert read_answer(text, SIGNS) == "C"
