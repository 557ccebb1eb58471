"""Two evaluations paired by hand."""

import pytest
from evaluations import SETTINGS, always_a, blind, questions, right_from_anywhere, rows_of, sound, write_evaluation

from hart_lite.errors import HartError
from hart_lite.eval.compare import compare, compare_text
from hart_lite.eval.results import Evaluation, read_evaluation


def pair(tmp_path, rows_a, rows_b, **settings_b) -> list[Evaluation]:
    folders = write_evaluation(tmp_path / "a", rows_a), write_evaluation(tmp_path / "b", rows_b, **settings_b)
    return [read_evaluation(folder) for folder in folders]


def test_differences_are_b_less_a(tmp_path):
    """A says A always (10 of 40 right), B is always right from boxes anywhere."""
    asked = questions(40)
    a, b = pair(tmp_path, rows_of(asked, always_a), rows_of(asked, right_from_anywhere))
    found = compare(a, b)
    part = found["parts"]["treebench"]["crops"]
    assert (found["pairs"], found["only_a"], found["only_b"], found["changed"]) == (40, 0, 0, 0)
    strict = part["strict"]
    assert (strict["a"], strict["b"], strict["difference"]) == (0.25, 1, 0.75)
    assert 0.6 < strict["low"] < 0.75 < strict["high"] < 0.9
    assert strict["mcnemar"] == {"only_a": 0, "only_b": 30, "p": pytest.approx(2 / 2**30)}
    assert part["grounding"]["grounded"]["difference"] == 0
    back = compare(b, a)["parts"]["treebench"]["crops"]["strict"]
    assert (back["difference"], back["low"], back["high"]) == (-0.75, -strict["high"], -strict["low"])


def test_both_verdicts_and_grounding_are_compared(tmp_path):
    """The official scorer reads A where there is no answer: a quarter right for nothing."""
    asked = questions(40)
    part = compare(*pair(tmp_path, rows_of(asked, blind), rows_of(asked, sound)))["parts"]["treebench"]["crops"]
    assert (part["strict"]["a"], part["official"]["a"]) == (0, 0.25)
    assert part["grounding"]["grounded"]["b"] > 0.8
    assert part["grounding"]["grounded"]["mcnemar"]["only_a"] == 0
    assert part["grounding"]["iou"]["difference"] > 0.8
    assert part["grounding"]["coverage"]["a"] == 0


def test_rows_pair_by_benchmark_mode_and_id(tmp_path):
    asked = questions(10)
    rows_a = rows_of(asked[:8], sound) + rows_of(asked[:8], sound, mode="full", boxed=False)
    rows_b = list(reversed(rows_of(asked[2:], sound))) + rows_of(asked, sound, "vstar")
    found = compare(*pair(tmp_path, rows_a, rows_b))
    assert (found["pairs"], found["only_a"], found["only_b"]) == (6, 10, 12)
    assert found["parts"].keys() == {"treebench"}
    assert found["parts"]["treebench"].keys() == {"crops"}
    assert found["parts"]["treebench"]["crops"]["strict"]["difference"] == 0


def test_a_mode_without_a_look_has_no_grounding_to_compare(tmp_path):
    rows = rows_of(questions(10), blind, mode="full")
    part = compare(*pair(tmp_path, rows, rows))["parts"]["treebench"]["full"]
    assert "grounding" not in part


def test_other_settings_are_shown(tmp_path):
    rows = rows_of(questions(10), sound)
    changes = {"pixels": SETTINGS["pixels"] | {"full": 784}, "as_published": True, "model": "other", "modes": ["full"]}
    both = pair(tmp_path, rows, rows, **changes)
    assert compare(*both)["settings"] == {"pixels.full": [1003520, 784], "as_published": [False, True]}
    text = compare_text(compare(*both))
    assert "made differently" in text
    assert "| pixels.full | 1003520 | 784 |" in text
    assert "made differently" not in compare_text(compare(both[0], both[0]))


def test_pairs_that_ask_differently_are_counted(tmp_path):
    rows = rows_of(questions(10), sound)
    shuffled = [row | {"choices": row["choices"][::-1]} if n < 3 else row for n, row in enumerate(rows)]
    both = pair(tmp_path, rows, shuffled)
    assert compare(*both)["changed"] == 3
    assert "**3 pairs ask differently" in compare_text(compare(*both))


def test_the_text_has_every_figure(tmp_path):
    asked = questions(40)
    both = pair(tmp_path, rows_of(asked, always_a), rows_of(asked, right_from_anywhere), model="b|c")
    text = compare_text(compare(*both))
    assert "- b: b\\|c (" in text
    assert "- rows in both: 40; only in a: 0; only in b: 0" in text
    assert "**treebench, crops**: 40 questions about 20 images" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| right, strict")]
    assert line.startswith("| right, strict | 25.0 | 100.0 | +75.0 (+6")
    assert line.endswith("| p < 0.001 | 0 | 30 | p < 0.001 |")


def test_one_image_gives_no_interval(tmp_path):
    asked = questions(2)
    both = pair(tmp_path, rows_of(asked, blind), rows_of(asked, right_from_anywhere))
    strict = compare(*both)["parts"]["treebench"]["crops"]["strict"]
    assert (strict["difference"], strict["low"], strict["high"], strict["p"]) == (1, None, None, 1)
    assert "| right, strict | 0.0 | 100.0 | +100.0 | p 1.000 | 0 | 2 | p 0.500 |" in compare_text(compare(*both))


def test_evaluations_of_different_things_are_refused(tmp_path):
    asked = questions(4)
    both = pair(tmp_path, rows_of(asked, sound), rows_of(asked, sound, "vstar", "full"))
    with pytest.raises(HartError, match="no question in common: treebench in crops against vstar in full"):
        compare(*both)
