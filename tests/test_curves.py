"""The IoU curve as numbers and as pixels."""

import numpy as np
import pytest
from evaluations import blind, questions, rows_of, sound, whole_image, write_evaluation
from PIL import Image

from hart_lite.errors import HartError
from hart_lite.report.curves import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    draw_curves,
    iou_curves,
    write_iou_curve,
)


def colour_at(image, threshold, share):
    """The colour of the finished picture at a point of the plot."""
    x = LEFT + threshold * (WIDTH - LEFT - RIGHT)
    y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    return "#{:02X}{:02X}{:02X}".format(*image.getpixel((round(x), round(y))))


def test_a_curve_goes_where_its_values_are():
    """Marks stand at the thresholds; nothing else is there."""
    falling = [1 - i / 20 for i in range(20)]
    image = draw_curves({"falling": falling, "flat": [0.3] * 20})
    for i in (2, 6, 10, 18):
        assert colour_at(image, i / 20, falling[i]) == COLOURS[0]
        assert colour_at(image, i / 20, 0.3) == COLOURS[1]
    assert colour_at(image, 0.5, 0.9) == colour_at(image, 0.1, 0.1) == "#FFFFFF"


def test_one_curve_for_all_modes_that_looked_at_the_same(tmp_path):
    asked = questions(40)
    rows = [*rows_of(asked, sound), *rows_of(asked, sound, mode="full+crops"), *rows_of(asked, blind, mode="full")]
    rows += rows_of(asked, whole_image, "vstar")
    a = write_evaluation(tmp_path / "a", rows)
    b = write_evaluation(tmp_path / "b", rows_of(asked, blind), model="other")
    curves = iou_curves([a, b])
    assert list(curves) == [
        f"runs/small ({a}), crops and full+crops, treebench, n 40",
        f"runs/small ({a}), crops, vstar, n 40",
        f"other ({b}), crops, treebench, n 40",
    ]
    first, second, third = curves.values()
    assert first[0] >= first[-1] > 0.8
    assert (second[0], max(second[1:])) == (1, 0)
    assert third == [0] * 20


def test_the_picture_has_room_for_every_label(tmp_path):
    """However long and many, labels stay inside: the margin is white."""
    curves = {f"runs/{'long-' * n}name {n}": [n / 12] * 20 for n in range(12)} | {"x" * 3000: [0.5] * 20}
    pixels = np.asarray(draw_curves(curves))
    assert pixels.shape[1] == WIDTH
    assert (pixels[:, -8:] == 255).all()
    assert (pixels[-8:] == 255).all()
    assert (pixels[HEIGHT:, LEFT + 60 : -RIGHT] < 128).any()


def test_it_is_written(tmp_path):
    folder = write_evaluation(tmp_path / "a", rows_of(questions(10), sound))
    path = write_iou_curve([folder], tmp_path / "iou_curve.png")
    assert Image.open(path).size[0] == WIDTH
    with pytest.raises(HartError, match="cannot be written"):
        write_iou_curve([folder], tmp_path / "iou_curve.nonsense")
    bare = write_evaluation(tmp_path / "b", rows_of(questions(10), sound, boxed=False))
    with pytest.raises(HartError, match="no row has ground-truth boxes"):
        write_iou_curve([bare], tmp_path / "x.png")
