import math
import random

import pytest

from hart_lite.boxes import clip, coverage, expand, iogt, iou, rescale, valid_boxes
from hart_lite.types import Box

SIZE = (100, 50)


def test_overlap_of_two_boxes_by_hand():
    a, b = Box(0, 0, 10, 10), Box(5, 5, 15, 25)  # areas 100 and 200, shared 25
    assert iou(a, b) == iou(b, a) == pytest.approx(25 / 275)
    assert iogt(a, b) == pytest.approx(25 / 200)
    assert iogt(b, a) == pytest.approx(25 / 100)


def test_plain_lists_are_boxes_too():
    assert iou([0, 0, 10, 10], [5, 5, 15, 25]) == pytest.approx(25 / 275)
    assert iogt(pred=[0, 0, 100, 100], gt=(10, 10, 20, 20)) == 1.0
    assert iogt(Box(10, 10, 20, 20), [0, 0, 100, 100]) == pytest.approx(0.01)


def test_boxes_apart_touching_or_on_other_images_do_not_overlap():
    assert iou([0, 0, 10, 10], [20, 20, 30, 30]) == 0
    assert iou([0, 0, 10, 10], [10, 0, 20, 10]) == 0
    assert iou(Box(0, 0, 10, 10, 0), Box(0, 0, 10, 10, 1)) == 0
    assert iogt(Box(0, 0, 10, 10, 0), Box(0, 0, 10, 10, 1)) == 0


def test_empty_or_reversed_ground_truth_counts_as_not_grounded():
    assert iogt([0, 0, 10, 10], [5, 5, 5, 8]) == 0.0
    assert iogt([0, 0, 10, 10], [8, 8, 2, 2]) == 0.0
    assert iou([5, 5, 5, 5], [5, 5, 5, 5]) == 0.0


def test_clip_keeps_the_part_inside_and_the_image():
    assert clip(Box(-5, 10, 120, 70, 3), SIZE) == Box(0, 10, 100, 50, 3)
    assert clip(Box(200, 10, 220, 20), SIZE).area == 0


def test_expand_pads_by_the_boxs_own_size():
    assert expand(Box(40, 20, 60, 30), 0.5, SIZE) == Box(30, 15, 70, 35)
    assert expand(Box(0, 0, 10, 10, 2), 0.1, SIZE) == Box(0, 0, 11, 11, 2)


def test_rescale_maps_each_axis_by_itself():
    assert rescale(Box(10, 20, 30, 40, 1), (100, 50), (1000, 100)) == Box(100, 40, 300, 80, 1)


def test_coverage_counts_overlap_once_and_outside_never():
    assert coverage([], SIZE) == 0
    assert coverage([Box(0, 0, 50, 50)], SIZE) == 0.5
    assert coverage([Box(0, 0, 20, 20), Box(10, 10, 30, 30)], SIZE) == pytest.approx(700 / 5000)
    assert coverage([Box(0, 0, 20, 20)] * 3, SIZE) == pytest.approx(400 / 5000)
    assert coverage([Box(-100, -100, 300, 300)], SIZE) == 1.0


def test_coverage_equals_counting_pixels():
    dice = random.Random(0)
    for _ in range(50):
        boxes = []
        for _ in range(dice.randint(1, 5)):
            x, y = dice.randint(0, 19), dice.randint(0, 19)
            boxes.append(Box(x, y, dice.randint(x, 20), dice.randint(y, 20)))
        inside = sum(any(b.x1 <= x < b.x2 and b.y1 <= y < b.y2 for b in boxes) for x in range(20) for y in range(20))
        assert coverage(boxes, (20, 20)) == pytest.approx(inside / 400)


def test_valid_boxes_sorts_clips_and_counts():
    raw = [
        (60, 40, 20, 10),  # reversed corners
        (90, 40, 130, 80),  # partly outside
        (math.nan, 0, 10, 10),
        (0, 0, math.inf, 10),
        (5, 5, 5.5, 40),  # under one pixel wide
        (200, 0, 300, 10),  # outside
    ]
    assert valid_boxes(raw, SIZE, 12) == ((Box(20, 10, 60, 40), Box(90, 40, 100, 50)), 4)


def test_valid_boxes_keeps_the_first_usable_ones():
    raw = [(0, 0, 0, 0), (0, 0, 10, 10), (0, 0, 20, 20), (0, 0, 30, 30)]
    assert valid_boxes(raw, SIZE, 2) == ((Box(0, 0, 10, 10), Box(0, 0, 20, 20)), 2)


def test_valid_boxes_refuses_boxes_over_the_allowed_share():
    half, more = (0, 0, 50, 50), (0, 0, 51, 50)
    assert valid_boxes([half, more], SIZE, 4, max_box_share=0.5) == ((Box(0, 0, 50, 50),), 1)
    assert valid_boxes([(-9, -9, 999, 999)], SIZE, 4) == ((Box(0, 0, 100, 50),), 0)


def test_valid_boxes_survives_integers_beyond_floats():
    boxes, rejected = valid_boxes([(0, 0, 10**400, 10)], SIZE, 4, image=1)
    assert (boxes, rejected) == ((Box(0.0, 0.0, 100.0, 10.0, 1),), 0)
    assert all(isinstance(value, float) for value in boxes[0].xyxy)
