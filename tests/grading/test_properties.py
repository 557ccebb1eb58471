"""What holds for every text, as hypothesis draws them."""

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hart_lite.errors import HartError
from hart_lite.grading import answer_letter, check_answer, choice_lines, grade, normalise, read_answer

SIGNS = ("STOP", "SLOW", "EXIT", "OPEN")
QUICK = settings(
    max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
PIECES = (
    *(
        "\\boxed{",
        "}",
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "\n",
        ". ",
        "? ",
        ", ",
        "; ",
        "(A)",
        "A",
        "B",
        "C",
    ),
    *(
        "A or B",
        "(B) SLOW",
        "C. EXIT",
        "STOP",
        "slow",
        "The answer is ",
        "Answer: ",
        "It is ",
        "I choose ",
        "option ",
        "so ",
    ),
    *(
        "not ",
        "is wrong",
        "is correct",
        "rather than ",
        "all but ",
        "maybe ",
        "if ",
        "because ",
        "wait, ",
        "no, ",
        "and ",
    ),
    *(
        "that is wrong",
        "I am not sure",
        "答案是",
        "选",
        "不是",
        "。",
        "정답은 ",
        "입니다",
        "です",
        "La respuesta es ",
        "nicht ",
    ),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map("".join)
DOUBTS = st.sampled_from(("?", " ?", "?!?", " I am not sure", " I am not sure.", "\nI am not sure.", "? I am not sure"))
FREE = st.lists(
    st.sampled_from(
        ("red", "STOP", "3", "yes", "no", "It is ", "The answer is ", "Answer: ", "\n", ". ", '"', "not ", "5 cm")
    ),
    max_size=8,
).map("".join)
CHOICES = st.sampled_from(
    (
        SIGNS,
        ("Yes", "No"),
        ("1", "2", "3", "4"),
        ("left", "right"),
        ("a bus", "a truck", "a tram"),
        ("Point A", "Point B", "Point C"),
        ("The man is tall", "The man is short"),
        ("3.5 m", "35 m", "350 m"),
        ("红色", "蓝色", "绿色"),
    )
)
HEADINGS = st.sampled_from(
    (
        "",
        "The choices are listed below:\n",
        "Options:\n",
        "Choices: ",
        "The options are ",
        "Which one is it?\n",
        "Answer:\n",
    )
)
ITEMS = st.sampled_from(
    (
        *(
            "({0}) {1}",
            "{0}. {1}",
            "{0}) {1}",
            "{0}: {1}",
            "{0} - {1}",
            "{0} {1}",
            "{1}",
            "({0})",
            "- {1}",
            "- {0}. {1}",
        ),
        *("**{0}.** {1}", "[{0}] {1}", "* {0}", "（{0}） {1}", '"{1}"', "{1} ({0})", "Option {0}: {1}"),
    )
)
SEPARATORS = st.sampled_from(("\n", "\n\n", ", ", "; ", " / ", " | ", " ", " or ", " and ", ". ", ",\n", " - ", "\t"))


@QUICK
@given(TEXTS)
def test_no_text_is_right_for_two_letters(text):
    assert sum(grade(text, letter, SIGNS) for letter in "ABCD") <= 1


@QUICK
@given(TEXTS, DOUBTS)
def test_doubt_never_turns_nothing_into_a_letter(text, doubt):
    assert read_answer(text + doubt, SIGNS) in (None, read_answer(text, SIGNS))


@QUICK
@given(FREE, st.sampled_from(("red", "3", "yes", "no", "STOP", "5 cm", "not 3")), DOUBTS)
def test_doubt_never_turns_a_wrong_text_into_a_right_one(text, answer, doubt):
    assert grade(text, answer) or not grade(text + doubt, answer)


@QUICK
@given(CHOICES, HEADINGS, ITEMS, SEPARATORS, st.randoms(use_true_random=False), st.sampled_from(("", ".", "\n", "?")))
def test_a_list_of_all_choices_is_no_answer(choices, heading, item, separator, random, ending):
    items = [item.format("ABCD"[n], choice) for n, choice in enumerate(choices)]
    random.shuffle(items)
    assert read_answer(heading + separator.join(items) + ending, choices) is None


@QUICK
@given(
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=2, max_size=9), min_size=2, max_size=6, unique=True)
)
def test_the_choices_as_prompts_show_them_are_no_answer(choices):
    assume(len(set(map(normalise, choices))) == len(choices))
    assert read_answer(choice_lines(choices), choices) is None


@QUICK
@given(TEXTS | FREE | st.text(max_size=20))
def test_a_rows_answer_is_right_for_itself_or_refused(answer):
    for choices in (SIGNS, ()):
        try:
            check_answer(answer, choices)
        except HartError:
            continue
        assert grade(answer, answer, choices)


@QUICK
@given(TEXTS | st.text(max_size=20))
def test_the_answer_of_a_row_is_read_as_its_letter(answer):
    try:
        letter = answer_letter(answer, SIGNS)
    except HartError:
        return
    assert read_answer(answer, SIGNS) == letter


@QUICK
@given(st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1, max_size=20))
def test_plain_words_and_numbers_are_never_refused(answer):
    assume(answer.strip() and normalise(answer))
    check_answer(answer)


@settings(QUICK, max_examples=1000)
@given(st.text(max_size=20) | TEXTS | FREE)
def test_normalising_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)
