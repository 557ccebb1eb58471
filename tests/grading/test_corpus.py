"""Responses with the reading of a fair human.

`corpus.jsonl` grew with the grader, which was changed after its rows. Its 320 rows of "unseen round 6" were first read
as the human in 90.3 %, with a wrong letter in 3.75 %. The grader was then changed after them and after others composed
for their kinds; 71 of those were scored only at the end: 85.9 % and 4.2 %, and 66.2 % and 18.3 % before the change.

Of `held_out.jsonl` the first 473 rows were written before the grader. Their first reading agreed in 98.7 % and was
wrong in 0.2 %; the grader was then changed after them, too. The 203 rows of the third and fifth round were written
after the grader of that time. The 200 rows of "unseen round 7" were written by someone who knew neither the grader nor
the other rows, and scored once: 97.5 % agree and none is wrong. The grader was not changed after them.

A row has `text`, `choices` (or null), `truth` (the right answer), `right` (whether a human would call the text right),
`reading` (the letter or text that a human reads, null for none), `kind` and `language`.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from hart_lite.grading import grade, read_answer

HERE = Path(__file__).parent
FILES = ("corpus.jsonl", "held_out.jsonl")
LEAST_AGREEMENT = 0.97
MOST_WRONG = 0.005  # a letter that is not meant; in free text a wrong answer that is called right


def rows(*names: str) -> list[dict]:
    return [json.loads(line) for name in names for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def judge(row: dict) -> str:
    """ "agrees", "wrong" or "unread"."""
    if not row["choices"]:
        graded = grade(row["text"], row["truth"])
        return "agrees" if graded == row["right"] else "wrong" if graded else "unread"
    letter = read_answer(row["text"], row["choices"])
    assert grade(row["text"], row["truth"], row["choices"]) == (letter == row["truth"])
    return "agrees" if letter == row["reading"] else "unread" if letter is None else "wrong"


def shares(found: list[dict]) -> tuple[float, float]:
    """(agreement, wrong readings), each as a share of the rows."""
    counts = Counter(map(judge, found))
    return counts["agrees"] / len(found), counts["wrong"] / len(found)


@pytest.mark.parametrize("name", FILES)
def test_the_grader_reads_as_a_human_does(name):
    agreement, wrong = shares(rows(name))
    assert agreement >= LEAST_AGREEMENT and wrong <= MOST_WRONG


def test_in_every_language():
    found = rows(*FILES)
    languages = {row["language"] for row in found}
    assert languages >= {"en", "zh", "ja", "ko", "es", "de", "fr", "pt", "ru"}
    for language in languages:
        agreement, wrong = shares([row for row in found if row["language"] == language])
        assert agreement >= LEAST_AGREEMENT and wrong <= 2 * MOST_WRONG, language


def test_the_corpus_is_what_it_should_be():
    found = rows(*FILES)
    assert len(found) >= 1500
    assert len({(row["text"], tuple(row["choices"] or ()), row["truth"]) for row in found}) > 0.9 * len(found)
    for row in found:
        letters = "ABCDEFGH"[: len(row["choices"] or ())]
        assert row["right"] == (row["reading"] == row["truth"]) and row["kind"] and row["language"]
        assert not row["choices"] or (row["truth"] in letters and (row["reading"] or "A") in letters)


def test_the_measure_sees_a_grader_that_guesses():
    """Rows whose reading is another letter count as wrong, rows with none as wrong where a letter is read."""
    letters = [row for row in rows(*FILES) if row["choices"] and row["reading"]]
    shifted = [row | {"reading": "ABCD"[("ABCDEFGH".index(row["reading"]) + 1) % 4]} for row in letters]
    assert shares(shifted)[1] > 0.9 and shares([row | {"reading": None} for row in letters])[1] > 0.9
