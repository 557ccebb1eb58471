"""What a page shows of an answer: the photo with frames over it, the crops beside it, what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

from PIL import Image

from hart_lite.boxes import clip
from hart_lite.data.drawing import COLOURS, crop_of
from hart_lite.eval.prediction import Prediction
from hart_lite.types import Box
from hart_lite.utils.text import cut

SIDE, CROP_SIDE = 1280, 480  # most pixels of the longer sides in a page: a crop up to that size is shown as it is

Keep = Callable[[Image.Image, str, int], str | None]
"""Keeps a picture of this name with at most so many pixels on its longer side; returns where a page finds it, None
where there is no room."""


def style_of(number: int) -> str:
    return f"c{(number - 1) % len(COLOURS) + 1}" if number else "truth"


@dataclass(frozen=True)
class Frame:
    """A box on a photo, in its original pixels. `number` counts from 1; 0 is a ground truth."""

    box: Box
    number: int = 0

    @property
    def style(self) -> str:
        return style_of(self.number)


@dataclass(frozen=True)
class Crop:
    """A picture beside the photo; sizes are original pixels."""

    src: str
    width: int
    height: int
    number: int = 0

    @property
    def style(self) -> str:
        return style_of(self.number)

    @property
    def title(self) -> str:
        return f"box {self.number}" if self.number else "asked about"


@dataclass(frozen=True)
class Look:
    """`photo` is an address, or "#ID" of one that the page holds already; `size` its original pixels. `answers` are
    (text, whether it is right, None where nobody knows)."""

    photo: str = ""
    size: tuple[int, int] = (0, 0)
    frames: Sequence[Frame] = ()
    crops: Sequence[Crop] = ()
    title: str = ""
    answers: Sequence[tuple[str, bool | None]] = ()
    note: str = ""
    problem: str = ""

    @property
    def shared(self) -> bool:
        return self.photo.startswith("#")

    def saying(self, title: str, answers: Sequence[tuple[str, bool | None]], note: str = "") -> Look:
        return replace(self, title=title, answers=answers, note=note)


def said(row: Prediction) -> str:
    """The answer of a row."""
    return "no answer read" if row.answer is None else with_choice(row.answer, row.choices)


def with_choice(answer: str, choices: Sequence[str]) -> str:
    """A letter with the text of its choice; another answer as it is."""
    number = ascii_uppercase.find(answer) if len(answer) == 1 else -1
    return cut(f"{answer}: {choices[number]}" if 0 <= number < len(choices) else answer)


def frames_of(boxes: Sequence[Box], truth: Sequence[Box]) -> list[Frame]:
    """Those on the first image: benchmarks with boxes have one. The ground truth lies below."""
    own = [box for box in boxes if box.image == 0]
    return [Frame(box) for box in truth if box.image == 0] + [Frame(box, n) for n, box in enumerate(own, 1)]


def draw_look(
    image: Image.Image, boxes: Sequence[Box], truth: Sequence[Box], keep: Keep, name: str, photo: str | None = None
) -> Look:
    """The photo and its crops, kept under names that begin with `name`; `photo` is where it is kept already."""
    frames = [replace(f, box=clip(f.box, image.size)) for f in frames_of(boxes, truth)]
    crops = []
    for n, frame in enumerate(sorted(frames, key=lambda f: f.number == 0)):
        crop = crop_of(image, frame.box)
        if src := keep(crop, f"{name}-{n + 1}", CROP_SIDE):
            crops.append(Crop(src, *crop.size, frame.number))
    photo = photo or keep(image, name, SIDE)
    problem = "" if photo else "left out to keep this file small; hart-lite gallery shows it"
    return Look(photo or "", image.size, frames, crops, problem=problem)
