"""What the numbers of a box in a model's text mean: each convention to and from original pixels, as plain arithmetic.

Qwen2.5-VL writes `seen-pixels`, Qwen3-VL and InternVL `relative-1000`. Nobody says what LLaVA-OneVision writes: in the
data of its lineage `unit` is reported beside `unit-padded` (haotian-liu/LLaVA#606, #822), and others score it as 0 to
1000 and as pixels (lmms-eval, pull request 1373). `hart-lite box-format` measures which one a checkpoint writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

BoxFormat = Literal["unit", "unit-padded", "relative-1000", "pixels", "seen-pixels"]
FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
MEANING = {
    "unit": "0 to 1 of the image's width and height",
    "unit-padded": "0 to 1 of the square that the image is centred in",
    "relative-1000": "0 to 1000 of the image's width and height",
    "pixels": "pixels of the original image",
    "seen-pixels": "pixels of the image as the model is shown it",
}
Size = tuple[int, int]  # width, height


def _axes(box_format: BoxFormat, seen: Size, original: Size) -> list[tuple[int, int, int]]:
    """For x and for y (times, by, shift): number * times / by - shift is a place in original pixels."""
    if box_format == "unit-padded":
        side = max(original)  # as expand2square of LLaVA pads: half of what is missing, rounded down, comes before
        return [(side, 1, (side - length) // 2) for length in original]
    wholes = {"unit": (1, 1), "relative-1000": (1000, 1000), "pixels": original, "seen-pixels": seen}[box_format]
    return [(length, whole, 0) for length, whole in zip(original, wholes, strict=True)]


def to_original(box_format: BoxFormat, numbers: Sequence[float], seen: Size, original: Size) -> tuple[float, ...]:
    """x1, y1, x2, y2 as a text has them -> in original pixels. `seen` is the size the model sees the image at.

    Nothing is checked or clipped: numbers outside the image stay outside, NaN stays NaN.
    """
    axes = _axes(box_format, seen, original) * 2
    return tuple(v * times / by - shift for v, (times, by, shift) in zip(numbers, axes, strict=True))


def from_original(box_format: BoxFormat, xyxy: Sequence[float], seen: Size, original: Size) -> tuple[float, ...]:
    """The numbers of a text that points at a box in original pixels, not rounded."""
    axes = _axes(box_format, seen, original) * 2
    return tuple((v + shift) * by / times for v, (times, by, shift) in zip(xyxy, axes, strict=True))


def written(box_format: BoxFormat, numbers: Sequence[float]) -> str:
    """`x1, y1, x2, y2`: three decimals where all lies between 0 and 1, else whole numbers."""
    digits = 3 if box_format.startswith("unit") else 0
    return ", ".join(f"{value:.{digits}f}" for value in numbers)
