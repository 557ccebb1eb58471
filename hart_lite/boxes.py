"""Geometry of boxes: overlap, clipping, mapping between frames.

`size` is always (width, height) in pixels. Boxes are xyxy; see `hart_lite.types` for the frame.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

from hart_lite.types import Box

Size = tuple[int, int]
BoxLike = Box | Sequence[float]
CONTROL_IOU = 0.1  # a control region overlaps every chosen box by less
PLACES = 200  # that are tried for it


def _as_box(box: BoxLike) -> Box:
    return box if isinstance(box, Box) else Box(*box)


def _intersection(a: Box, b: Box) -> float:
    """Shared area in square pixels; 0 for boxes on different images."""
    if a.image != b.image:
        return 0.0
    return Box(max(a.x1, b.x1), max(a.y1, b.y1), min(a.x2, b.x2), min(a.y2, b.y2)).area


def iou(a: BoxLike, b: BoxLike) -> float:
    """Intersection over union, 0..1. Takes `Box` or `[x1, y1, x2, y2]`; two empty boxes give 0."""
    a, b = _as_box(a), _as_box(b)
    shared = _intersection(a, b)
    union = a.area + b.area - shared
    return shared / union if union > 0 else 0.0


def iogt(pred: BoxLike, gt: BoxLike) -> float:
    """Share of the ground truth inside the prediction, |pred ∩ gt| / |gt|, 0..1; an empty ground truth gives 0."""
    pred, gt = _as_box(pred), _as_box(gt)
    return _intersection(pred, gt) / gt.area if gt.area > 0 else 0.0


def clip(box: Box, size: Size) -> Box:
    """The part of the box inside the image; a box wholly outside becomes empty, at the border."""
    width, height = size
    return Box(
        min(max(box.x1, 0), width),
        min(max(box.y1, 0), height),
        min(max(box.x2, 0), width),
        min(max(box.y2, 0), height),
        box.image,
    )


def expand(box: Box, pad: float, size: Size) -> Box:
    """The box grown on each side by `pad` of its own width and height, clipped to the image."""
    dx, dy = pad * box.width, pad * box.height
    return clip(Box(box.x1 - dx, box.y1 - dy, box.x2 + dx, box.y2 + dy, box.image), size)


def rescale(box: Box, from_size: Size, to_size: Size) -> Box:
    """The same region of the same image, in the frame of another size."""
    fx, fy = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return Box(box.x1 * fx, box.y1 * fy, box.x2 * fx, box.y2 * fy, box.image)


def coverage(boxes: Iterable[Box], size: Size) -> float:
    """Exact share (0..1) of one image that the union of its boxes covers: overlap counts once, outside not at all."""
    clipped = [clip(box, size) for box in boxes]
    edges = sorted({x for box in clipped for x in (box.x1, box.x2)})
    area = 0.0
    for left, right in pairwise(edges):  # within a vertical strip only heights matter
        covered, reach = 0.0, -math.inf
        for y1, y2 in sorted((b.y1, b.y2) for b in clipped if b.x1 <= left and b.x2 >= right):
            covered += max(0.0, y2 - max(y1, reach))
            reach = max(reach, y2)
        area += covered * (right - left)
    return area / (size[0] * size[1])


def control_boxes(boxes: Sequence[Box], sizes: Sequence[Size], rng: random.Random) -> tuple[Box, ...] | None:
    """Boxes of the same sizes elsewhere on the same images, in order: each overlaps all of `boxes` by an IoU below 0.1.

    `sizes` are those of the images. None where `PLACES` draws find no such place for one of them, as for a box over
    more than half of its image.
    """
    found = []
    for box in boxes:
        width, height = sizes[box.image]
        corners = ((rng.uniform(0, width - box.width), rng.uniform(0, height - box.height)) for _ in range(PLACES))
        places = (Box(x, y, x + box.width, y + box.height, box.image) for x, y in corners)
        free = next((place for place in places if all(iou(place, chosen) < CONTROL_IOU for chosen in boxes)), None)
        if free is None:
            return None
        found.append(free)
    return tuple(found)


def valid_boxes(
    raw: Iterable[Sequence[float]], size: Size, max_boxes: int, max_box_share: float = 1.0, image: int = 0
) -> tuple[tuple[Box, ...], int]:
    """What a model emitted, made usable: (boxes in their order, how many were rejected).

    `raw` holds x1, y1, x2, y2 in original pixels of image number `image`. Corners are sorted and boxes clipped;
    non-finite boxes, boxes under 1 px wide or high, boxes over `max_box_share` of the image, and those after the first
    `max_boxes` usable ones are rejected.
    """
    boxes: list[Box] = []
    rejected = 0
    for corners in raw:
        box = _usable(corners, size, max_box_share, image)
        if box is None or len(boxes) == max_boxes:
            rejected += 1
        else:
            boxes.append(box)
    return tuple(boxes), rejected


def _usable(corners: Sequence[float], size: Size, max_box_share: float, image: int) -> Box | None:
    # Compared, not math.isfinite: a model may write an integer too large for a float, which clipping handles.
    if not all(abs(value) < math.inf for value in corners):
        return None
    x1, y1, x2, y2 = corners
    inside = clip(Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), size)
    box = Box(*(float(value) for value in inside.xyxy), image)
    if box.width < 1 or box.height < 1 or box.area > max_box_share * size[0] * size[1]:
        return None
    return box
