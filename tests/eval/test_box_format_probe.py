import json
import math
import random
from pathlib import Path

import pytest
from tiny_families import build_llava

from hart_lite.box_formats import FORMATS, MEANING, from_original, to_original, written
from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.eval.box_format_probe import Answer, compare, measure, sign_test, text
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.toy.scenes import World, examples
from hart_lite.types import Box

# -- arithmetic ----------------------------------------------------------------------------------------------------


def test_each_frame_by_hand():
    """An image of 400 x 200, seen at 100 x 50: the square around it has bars of 100 above and below."""
    seen, original = (100, 50), (400, 200)
    box = (40.0, 50.0, 200.0, 150.0)
    numbers = {
        "unit": (0.1, 0.25, 0.5, 0.75),
        "unit-padded": (0.1, 0.375, 0.5, 0.625),
        "relative-1000": (100, 250, 500, 750),
        "pixels": (40, 50, 200, 150),
        "seen-pixels": (10, 12.5, 50, 37.5),
    }
    assert set(numbers) == set(FORMATS) == set(MEANING)
    for box_format, values in numbers.items():
        assert to_original(box_format, values, seen, original) == pytest.approx(box)
        assert from_original(box_format, box, seen, original) == pytest.approx(values)


def test_a_tall_image_is_padded_at_its_sides_and_an_odd_bar_is_rounded_down():
    assert to_original("unit-padded", (0.5, 0.5, 1, 1), (9, 9), (101, 200)) == (51, 100, 151, 200)
    assert to_original("unit-padded", (0, 0, 1, 1), (9, 9), (50, 50)) == (0, 0, 50, 50)


@pytest.mark.parametrize("box_format", FORMATS)
@pytest.mark.parametrize("original", [(640, 480), (333, 1000), (50, 50)])
def test_there_and_back_is_the_same(box_format, original):
    box = (1.5, 2.25, original[0] / 3, original[1] / 2)
    seen = (84, 126)
    assert to_original(box_format, from_original(box_format, box, seen, original), seen, original) == pytest.approx(box)


def test_numbers_are_written_as_the_frame_has_them():
    assert written("unit", (0, 0.12345, 1, 0.5)) == "0.000, 0.123, 1.000, 0.500"
    assert written("relative-1000", (0, 123.5, 999.6, 1000)) == "0, 124, 1000, 1000"


def test_what_is_no_number_stays_none():
    assert all(math.isnan(v) for v in to_original("unit", (math.nan,) * 4, (9, 9), (10, 10)))


# -- comparing -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> LlavaOneVision:
    return LlavaOneVision(str(build_llava(tmp_path_factory.mktemp("llava"))))


def answers(family, box_format, sizes=((640, 480), (300, 900), (1200, 500)), n=30, noise=0.02, seed=0) -> list[Answer]:
    """What a checkpoint would write that follows `box_format` and misses by `noise` of the image."""
    chance, out = random.Random(seed), []
    for k in range(n):
        original = sizes[k % len(sizes)]
        seen = family.fit(original, 16 * 42 * 42, 1)
        x, y = (chance.uniform(0, 0.6) * side for side in original)
        truth = Box(x, y, x + 0.3 * original[0], y + 0.3 * original[1])
        moved = [v + chance.gauss(0, noise) * side for v, side in zip(truth.xyxy, original * 2, strict=True)]
        numbers = from_original(box_format, moved, seen, original)
        [wrote] = family.written_boxes(f"It is at [{written(box_format, numbers)}].", 1)
        out.append(Answer((wrote,), (truth,), (seen,), (original,)))
    return out


@pytest.mark.parametrize("box_format", FORMATS)
def test_the_frame_that_was_written_is_found(family, box_format):
    report = compare(answers(family, box_format))
    assert (report["best"], report["clear"], report["fits"]) == (box_format, True, True)
    assert report["formats"][box_format]["iou"] > 0.6 and report["formats"][box_format]["hits"] > 20
    others = [row["iou"] for name, row in report["formats"].items() if name != box_format]
    assert max(others) < 0.8 * report["formats"][box_format]["iou"]
    assert report["better"] + report["worse"] <= report["questions"] == report["named"] == 30
    assert report["chance"] < 0.01


def test_square_images_do_not_tell_padded_from_plain(family):
    report = compare(answers(family, "unit", sizes=((500, 500),)))
    assert report["formats"]["unit"] == report["formats"]["unit-padded"]
    assert {report["best"], report["second"]} == {"unit", "unit-padded"}
    assert (report["clear"], report["chance"], report["square"]) == (False, 1.0, 30)
    verdict = text(report | {"model": "m", "own": "unit"})
    assert "Not clear" in verdict and "more rows, and not of square images" in verdict


def test_boxes_put_anywhere_fit_no_frame(family):
    given = answers(family, "unit")
    shuffled = [Answer(a.written, (Box(0, 0, 5, 5),), a.seen, a.original) for a in given]
    report = compare(shuffled)
    assert not report["fits"] and not report["clear"]
    assert "None fits" in text(report | {"model": "m", "own": "unit"})


def test_few_rows_are_not_clear_and_answers_without_a_box_count_as_misses(family):
    some = answers(family, "unit", n=3)
    report = compare(some)
    assert report["best"] == "unit" and not report["clear"]
    silent = [Answer((), a.truth, a.seen, a.original) for a in answers(family, "unit", n=27)]
    mixed = compare(some + silent)
    assert mixed["formats"]["unit"]["iou"] == pytest.approx(report["formats"]["unit"]["iou"] / 10)
    assert (mixed["questions"], mixed["named"]) == (30, 3)
    nothing = compare(silent)
    assert nothing["named"] == 0 and not nothing["clear"]
    assert "no answer names a box" in text(nothing | {"model": "m", "own": "unit"})


def test_the_verdict_says_what_to_set(family):
    report = compare(answers(family, "relative-1000"))
    assert "Clear: relative-1000, model.box_format=relative-1000;" in text(report | {"model": "m", "own": "unit"})
    assert "Clear: relative-1000, which this family uses;" in text(report | {"model": "m", "own": "relative-1000"})


@pytest.mark.parametrize(
    ("better", "worse", "chance"), [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (9, 1, 2 * 11 / 1024), (3, 3, 1)]
)
def test_the_sign_test_is_exact(better, worse, chance):
    assert sign_test(better, worse) == sign_test(worse, better) == pytest.approx(chance)


# -- a real checkpoint ---------------------------------------------------------------------------------------------


def boxed_rows(folder: Path, scenes: int, boxes: bool = True) -> Path:
    lines = []
    for example in examples(World(), range(scenes)):
        name = f"{example.images[0].index}.png"
        example.images[0].load().save(folder / name)
        row = {"id": example.id, "image": name, "question": example.question, "choices": list(example.choices)}
        row |= {"answer": example.answer} | ({"boxes": [list(b.xyxy) for b in example.boxes]} if boxes else {})
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def test_the_toy_model_is_found_to_write_pixels_of_what_it_sees(tmp_path):
    """It is trained, and its box_format is known: of 672 pixels it sees 112."""
    rows = boxed_rows(tmp_path, 40)
    report = measure(ModelSection(device="cpu"), str(rows), limit=60, pixels=12544)
    assert report["questions"] == 60 and report["named"] > 50
    assert (report["best"], report["clear"], report["own"]) == ("seen-pixels", True, "seen-pixels")
    assert report["formats"]["seen-pixels"]["iou"] > 0.25
    assert "Clear: seen-pixels, which this family uses" in text(report)
    json.dumps(report)


def test_an_untrained_llava_is_measured_too(tmp_path):
    base = build_llava(tmp_path / "base")
    report = measure(ModelSection(base=str(base)), str(boxed_rows(tmp_path, 2)), pixels=4 * 42 * 42)
    assert report["own"] == "unit" and not report["clear"]


def test_rows_with_names_of_their_own_are_measured(tmp_path):
    rows = boxed_rows(tmp_path, 4)
    text = rows.read_text().replace('"question":', '"Text":')
    rows.write_text(text)
    columns = {name: name for name in ("id", "image", "choices", "answer", "boxes")} | {"question": "Text"}
    assert measure(ModelSection(device="cpu"), str(rows), pixels=12544, columns=columns)["questions"] == 8


def test_rows_without_boxes_are_refused(tmp_path):
    with pytest.raises(HartError, match=r"no row has boxes"):
        measure(ModelSection(), str(boxed_rows(tmp_path, 1, boxes=False)))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"pixels": 100}])
def test_nothing_to_ask_or_to_show_is_refused(wrong):
    with pytest.raises(HartError, match=r"at least 1 row is asked and 784 pixels are shown"):
        measure(ModelSection(), "rows.jsonl", **wrong)


def test_several_images_are_read_each_in_its_own_frame():
    sizes = ((100, 100), (400, 200))
    wrote = ((0.1, 0.1, 0.5, 0.5, 1),)
    answer = Answer(wrote, (Box(40, 20, 200, 100, 1),), ((42, 42), (84, 42)), sizes)
    assert answer.boxes("unit") == (Box(40, 20, 200, 100, 1),)
    assert answer.boxes("unit-padded") == (Box(40, 0, 200, 100, 1),)
