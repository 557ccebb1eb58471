"""Each verdict of check-base on figures that are made up, on both sides of each limit."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from hart_lite.perf.check_base import verdicts
from hart_lite.perf.check_base.boxes import Boxes, Reading
from hart_lite.perf.check_base.decode import Decoding, Difference, Greedy
from hart_lite.perf.check_base.layers import Largest
from hart_lite.perf.check_base.memory import Memory
from hart_lite.perf.check_base.report import text
from hart_lite.perf.check_base.run import Report
from hart_lite.perf.check_base.verdicts import Check

DTYPES = ("float32", "float16", "bfloat16")


def largest(vision: float = 1.0, scale: float = 0.125, **second_layer: float) -> Largest:
    """Ones, but for what is named of the second of two layers: scores, key, residual, product."""
    names = ("scores", "key", "residual", "product")
    return Largest(((1.0,) * 4, tuple(second_layer.get(name, 1.0) for name in names)), vision, scale)


# -- large values ------------------------------------------------------------------------------------------------------

STORED = [("key", "|key| of layer 1"), ("residual", "residual of layer 1"), ("product", "MLP product of layer 1")]
STORED += [("vision", "an output of the vision tower")]


@pytest.mark.parametrize(("name", "place"), STORED)
def test_float16_wants_room_for_twice_the_largest_value(name, place):
    enough, more = (verdicts.activations(largest(**{name: v}), "float16") for v in (32_752, 32_753))
    assert (enough.status, more.status) == ("pass", "warn")
    assert f"the largest is 32,753 ({place})" in more.text and "set model.dtype=bfloat16" in more.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wider_precision_holds_what_float16_does_not(dtype):
    check = verdicts.activations(largest(residual=1e6), dtype)
    assert check.status == "pass" and f"{dtype} holds it, model.dtype=float16 would not" in check.text
    assert "model.dtype=float16 holds it" in verdicts.activations(largest(residual=100), dtype).text


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize(("name", "place"), STORED)
def test_a_value_that_is_not_finite_fails_where_it_is_first(name, place, value):
    fails = {dtype: verdicts.activations(largest(**{name: value}), dtype) for dtype in DTYPES}
    assert {check.status for check in fails.values()} == {"fail"}
    assert all(check.text.startswith(f"{place} is not finite") for check in fails.values())
    assert "set model.dtype=bfloat16" in fails["float16"].text and "damaged" in fails["float32"].text


def test_scores_are_not_stored():
    assert verdicts.activations(largest(scores=1e9), "float16").status == "pass"


def test_scores_past_the_end_of_float16_are_a_warning_in_float16_alone():
    statuses = {d: [verdicts.scores(largest(scores=v), d).status for v in (65_504, 65_505)] for d in DTYPES}
    assert statuses == {"float32": ["pass"] * 2, "float16": ["pass", "warn"], "bfloat16": ["pass"] * 2}
    assert "|q.k| reaches 65,505 in layer 1" in verdicts.scores(largest(scores=65_505), "float16").text
    assert "Keep bfloat16" in verdicts.scores(largest(scores=65_505), "bfloat16").text
    assert [verdicts.scores(largest(scores=v), d).status for v in (nan, inf) for d in DTYPES] == ["fail"] * 6


def test_what_rounding_would_do_to_scores():
    """Half a unit in the last place, 2^-8 of 1000 in bfloat16 and 2^-11 in float16, times the scale of 1/8."""
    texts = [verdicts.scores(largest(scores=1000), dtype).text for dtype in ("bfloat16", "float16")]
    assert "off by up to 0.49 nats" in texts[0] and "off by up to 0.061 nats" in texts[1]


# -- three paths to one log-prob ---------------------------------------------------------------------------------------


ALIKE = Greedy(8, 8, 0.0)


def decoding(gap: float = 0.0, library: float = 0.0, greedy: Greedy = ALIKE, adapter: float = 0.0) -> Decoding:
    return Decoding(8, 96, Difference(gap, gap), Difference(library, library), greedy, adapter)


GAPS = {"float32": (0.002, 0.02), "float16": (0.005, 0.02), "bfloat16": (0.03, 0.1)}
LIBRARY = {"float32": (0.002, 0.02), "float16": (0.02, 0.1), "bfloat16": (0.05, 0.5)}


def statuses(judge, limits: tuple[float, float]) -> list[str]:
    warn, fail = limits
    return [judge(value).status for value in (0.0, warn, warn * 1.01, fail, fail * 1.01, nan)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_of_log_probs(dtype):
    expected = ["pass", "pass", "warn", "warn", "fail", "fail"]
    assert statuses(lambda v: verdicts.sampling_gap(decoding(gap=v), dtype), GAPS[dtype]) == expected
    assert statuses(lambda v: verdicts.library(decoding(library=v), dtype), LIBRARY[dtype]) == expected


def test_each_verdict_reads_its_own_difference():
    assert verdicts.sampling_gap(decoding(library=9.0), "float32").status == "pass"
    assert verdicts.library(decoding(gap=9.0), "float32").status == "pass"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_greedy_id_far_from_the_librarys_choice_is_a_warning(dtype):
    most = 10 * LIBRARY[dtype][0]
    checks = [verdicts.library(decoding(greedy=Greedy(7, 8, m)), dtype) for m in (most, most * 1.01, nan)]
    assert [check.status for check in checks] == ["pass", "warn", "warn"]
    assert all("7 of 8 greedy ids" in check.text for check in checks)
    assert verdicts.library(decoding(library=9.0, greedy=Greedy(7, 8, 9.0)), dtype).status == "fail"


def test_a_fresh_adapter_changes_nothing():
    assert [verdicts.adapter(decoding(adapter=v)).status for v in (0.0, 1e-6, nan)] == ["pass", "fail", "fail"]


def test_where_nothing_is_drawn_the_reason_is_given():
    check = verdicts.lost("float16 is too narrow")
    assert check.status == "fail" and "float16 is too narrow" in check.text


# -- boxes and memory --------------------------------------------------------------------------------------------------


def boxes(best: float, own: float, sure: bool = True, named: int = 12) -> Boxes:
    frame = "pixels" if best != own else "seen-pixels"
    readings = {"seen-pixels": Reading(own, 3), "pixels": Reading(best if best != own else 0.0, 5)}
    return Boxes(12, named, "seen-pixels", frame, readings, sure)


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (boxes(0.0, 0.0, named=0), "warn", "none of 12 answers names a box"),
        (boxes(0.099, 0.099), "warn", "in no format they are where the things are"),
        (boxes(0.1, 0.1), "pass", "best read as seen-pixels, as is set"),
        (boxes(0.5, 0.24), "fail", "Set model.box_format=pixels"),
        (boxes(0.5, 0.25), "warn", "not clear"),
        (boxes(0.5, 0.24, sure=False), "warn", "hart-lite box-format"),
        (boxes(0.099, 0.0), "warn", "in no format"),
    ],
)
def test_box_format(found, status, words):
    check = verdicts.box_format(found)
    assert check.status == status and words in check.text


@pytest.mark.parametrize(("plan", "most"), [(1.0, 1.1625), (0.0, 0.0625), (20.0, 22.0625)])
def test_memory_may_pass_the_plan_by_a_tenth_and_64_mib(plan, most):
    fine = Memory(plan, most - 1e-4, plan, most - 1e-4, process=99.0)
    assert verdicts.memory(fine).status == "pass"
    load, work = (verdicts.memory(replace(fine, **{what: most + 1e-4})) for what in ("load", "work"))
    assert load.status == work.status == "warn"
    assert load.text.startswith("load took") and work.text.startswith("work took")
    assert f"leave {most + 1e-4 - plan:.2f} GiB more free" in work.text


# -- the verdict on all of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "sound", "verdict"),
    [
        (["pass", "pass"], True, "verdict: sound on this machine with these settings, 0 warnings"),
        (["warn", "pass"], True, "verdict: sound on this machine with these settings, 1 warning"),
        (
            ["warn", "fail"],
            False,
            "verdict: NOT sound on this machine with these settings: 1 of 2 failed, 1 warning",
        ),
    ],
)
def test_one_failed_check_makes_a_base_unsound(found, sound, verdict):
    checks = tuple(Check(f"check {n}", status, "why") for n, status in enumerate(found))
    report = Report("a base", largest(residual=9000, key=nan), None, None, None, None, checks)
    lines = text(report).splitlines()
    assert report.sound is sound and lines[-1] == verdict
    assert [line for line in lines if "check" in line] == [f"{s}  check {n}: why" for n, s in enumerate(found)]
    assert lines[1].split() == ["largest", "values", "|q.k|", "|key|", "residual", "MLP", "product"]
    assert next(line for line in lines if "all 2 layers" in line).split()[3:] == ["1.0", "nan", "9,000", "1.0"]
