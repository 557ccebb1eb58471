"""What the model is shown of a question's images, and what it named read back: full views, crops, boxes.

Training and evaluation share these. Boxes are original pixels; sizes of views are the pixels the model sees.
"""

from __future__ import annotations

from collections.abc import Sequence

from hart_lite.boxes import expand, valid_boxes
from hart_lite.models.families.base import ImageInterface
from hart_lite.types import Box, Example, ImageView


def full_views(example: Example, interface: ImageInterface, max_pixels: int, min_pixels: int) -> tuple[ImageView, ...]:
    """Every image whole, within `min_pixels` to `max_pixels`."""
    return tuple(ImageView(image, interface.fit(image.size(), max_pixels, min_pixels)) for image in example.images)


def crop_view(
    example: Example, box: Box, interface: ImageInterface, pad: float, max_pixels: int, min_pixels: int
) -> ImageView:
    """The box grown by `pad` of its sides, in whole original pixels, shown within `min_pixels` to `max_pixels`."""
    source = example.images[box.image]
    left, top, right, bottom = expand(box, pad, source.size()).whole_pixels(source.size())
    size = interface.fit((right - left, bottom - top), max_pixels, min_pixels)
    return ImageView(source, size, Box(left, top, right, bottom, box.image))


def read_boxes(
    example: Example,
    full: Sequence[ImageView],
    text: str,
    interface: ImageInterface,
    max_boxes: int,
    max_box_share: float,
) -> tuple[tuple[Box, ...], int]:
    """(usable boxes that a text names, in order, unpadded; how many were refused). `full` is what the model saw."""
    sizes = [image.size() for image in example.images]
    boxes: list[Box] = []
    rejected = 0
    for *corners, image in interface.boxes_from_text(text, [view.size for view in full], sizes):
        room = max_boxes - len(boxes)
        good, bad = valid_boxes([corners], sizes[image], room, max_box_share, image)
        boxes += good
        rejected += bad
    return tuple(boxes), rejected
