r"""MGPO (arXiv 2507.05920; code: xinyu1205/verl, branch mgpo): one conversation in which the model names a box, is
shown what lies there, and answers within \boxed{}. Two turns, 8,192 tokens each at most.

Frame: absolute pixels of the image as the model sees it. Every view, crops too, has 256 to 1,280 tokens of 28 x 28
pixels, or what the setting's budgets allow where that is less. The first response is cut after its first code block.
Choices are withheld in turn 1. Crops are not padded. The prompts are the released ones, with their "Out the
coordinates".

Known faults, reproduced with `as_published`:
- only one box counts: the first in a ```json block that is made of four integers and carries a label;
- a box is refused when it reaches outside the image or has a side of 28 pixels or less, in pixels of the *resized*
  image: nothing small can be looked at;
- numbers mean pixels of the resized image whatever the model's family, and are cut down to whole original pixels;
- an image outside the limits is scaled by nearest neighbour before the processor scales it to its grid, which rounds
  each side and may go beyond the limits by that;
- the prompts ask for "(A, B, C, D, or E)" whatever the choices are.
By default all usable boxes count up to `max_boxes`, are read in the family's own frame and cut as training cuts them,
images are scaled once (bicubic), and the prompts name the letters that there are.

There, answers are sampled in training and evaluated by LMMs-Eval; here they are greedy.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hart_lite.grading import choice_lines
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say, Setting
from hart_lite.models.views import crop_view, full_views, read_boxes
from hart_lite.types import Box, Example, ImageSource, ImageView

if TYPE_CHECKING:
    from PIL import Image

SYSTEM = (
    "You are a helpful assistant. Given an image and one question. First, identify the coordinates of the key image "
    "area relevant to solving the problem. Append the coordinates in JSON format at the end of your response and stop. "
    "This will trigger cropping of the corresponding area in the original image and enlarge it for improved clarity. "
    "Once the enlarged image is available, provide the final answer (A, B, C, D, or E) enclosed within \\boxed{}."
)
LOCATE = "Out the coordinates of the key image area relevant to the problem in JSON format."
SUB_IMAGE = "Based on the provided coordinates, return the sub-image:"
NO_SUB_IMAGE = "Not providing correct coordinates or invalid coordinate values, return the original image:"
WITH_SUB_IMAGE = (
    "Carefully analyze both the original image and the enlarged sub-image to solve the question step by step. If the "
    "sub-image does not provide sufficient information, refer to the original image to find the solution. Present your "
    "reasoning clearly, and provide the final answer (A, B, C, D, or E) enclosed within \\boxed{}."
)
WITHOUT_SUB_IMAGE = (
    "Carefully analyze the original image to solve the question step by step. Present your reasoning clearly, and "
    "provide the final answer (A, B, C, D, or E) enclosed within \\boxed{}."
)
MOST, LEAST = 1280 * 784, 256 * 784  # pixels of a view
MAX_TOKENS = 8192
SMALLEST, MAX_ASPECT, WHOLE_ASPECT = 28, 100, 150  # of a box in resized pixels; of a crop in original ones
_LETTERS = " (A, B, C, D, or E)"
_FENCE = "```json\n"


def mgpo(example: Example, setting: Setting) -> ProtocolRun:
    shown = _full(example, setting)
    question = example.question if example.question.endswith((".", "?", "!")) else example.question + "."
    text = yield Say(
        [*shown, f" Question: {question} {LOCATE}"],
        "locate",
        system=_words(SYSTEM, example, setting),
        max_tokens=min(setting.max_tokens_locate, MAX_TOKENS),
        goes_on=True,
    )
    kept, boxes, cut, rejected = (_look_as_published if setting.as_published else _look)(example, setting, shown, text)
    choices = choice_lines(example.choices) + "\n" if example.choices else ""
    task = _words(WITH_SUB_IMAGE if boxes else WITHOUT_SUB_IMAGE, example, setting)
    text = yield Say(
        [f"{SUB_IMAGE if boxes else NO_SUB_IMAGE}\n", *cut, f"\nQuestion: {example.question} {choices}{task}"],
        "answer",
        fresh=False,
        keep=kept,
        max_tokens=min(setting.max_tokens_answer, MAX_TOKENS),
    )
    return Outcome(text, boxes, cut if boxes else (), {"rejected_boxes": rejected})


def _words(text: str, example: Example, setting: Setting) -> str:
    letters = [chr(ord("A") + n) for n in range(len(example.choices))]
    if setting.as_published or len(letters) == 5:
        return text
    *first, last = letters or [""]
    named = f" ({', '.join(first)}{',' * (len(first) > 1)} or {last})" if letters else ""
    return text.replace(_LETTERS, named)


def _limits(budget: int) -> tuple[int, int]:
    max_pixels = min(budget, MOST)
    return max_pixels, min(LEAST, max_pixels)


def _full(example: Example, setting: Setting) -> tuple[ImageView, ...]:
    limits = _limits(setting.full_pixels)
    if setting.as_published:
        return tuple(_nearest(image, None, setting, limits) for image in example.images)
    return full_views(example, setting.interface, *limits)


Look = tuple[str | None, tuple[Box, ...], tuple[ImageView, ...], int]


def _look(example: Example, setting: Setting, shown: tuple[ImageView, ...], text: str) -> Look:
    """(what of the response stays, boxes, what is shown next, boxes refused)."""
    opened = text.find("```")
    closed = text.find("```", opened + 3) if opened >= 0 else -1
    kept = text[: closed + 3] if closed >= 0 else text
    boxes, rejected = read_boxes(example, shown, kept, setting.interface, setting.max_boxes, setting.max_box_share)
    limits = _limits(setting.crop_pixels)
    cut = tuple(crop_view(example, box, setting.interface, 0, *limits) for box in boxes)
    return (kept if kept != text else None), boxes, cut or shown, rejected


def _look_as_published(example: Example, setting: Setting, shown: tuple[ImageView, ...], text: str) -> Look:
    kept, corners = _published_entry(text)
    if corners is None:
        return None, (), shown[:1], 0
    source, (seen_w, seen_h), (width, height) = example.images[0], shown[0].size, example.images[0].size()
    x1, y1, x2, y2 = corners
    inside = 0 <= x1 < x2 <= seen_w and 0 <= y1 < y2 <= seen_h
    large = inside and min(x2 - x1, y2 - y1) > SMALLEST
    if not large or max((x2 - x1) / (y2 - y1), (y2 - y1) / (x2 - x1)) >= MAX_ASPECT:
        return kept, (), shown[:1], 1
    left, right = (int(x / seen_w * width) for x in (x1, x2))
    top, bottom = (int(y / seen_h * height) for y in (y1, y2))
    whole = right - left >= (bottom - top) * WHOLE_ASPECT or bottom - top >= (right - left) * WHOLE_ASPECT
    box = Box(0, 0, width, height) if whole else Box(left, top, right, bottom)
    return kept, (box,), (_nearest(source, box, setting, _limits(setting.crop_pixels)),), 0


def _published_entry(text: str) -> tuple[str | None, list[int] | None]:
    """The response up to the end of its first ```json block with an entry that counts, and that entry's numbers."""
    start = text.find(_FENCE)
    while start >= 0 and (stop := text.find("\n```", start + len(_FENCE))) >= 0:
        try:
            entries = json.loads(text[start + len(_FENCE) : stop])
        except (ValueError, RecursionError):
            entries = None
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            for entry in entries:
                box = entry.get("bbox_2d")
                integers = isinstance(box, list) and len(box) == 4 and all(type(value) is int for value in box)
                if integers and isinstance(entry.get("label"), str):
                    return text[: stop + 4], box
        start = text.find(_FENCE, stop + 4)
    return None, None


@dataclass(frozen=True)
class Nearest:
    """An image, or a box of it, scaled by nearest neighbour."""

    source: ImageSource
    scaled: tuple[int, int]
    box: Box | None

    @property
    def key(self) -> str:
        return f"{self.source.key} {self.box} nearest {self.scaled}"

    def size(self) -> tuple[int, int]:
        return self.scaled

    def load(self) -> Image.Image:
        image = self.source.load()
        region = None if self.box is None else tuple(map(int, self.box.xyxy))
        return image.crop(region).resize(self.scaled, resample=0)  # 0 is PIL's NEAREST


def _nearest(source: ImageSource, box: Box | None, setting: Setting, limits: tuple[int, int]) -> ImageView:
    """As the released loader shows it: within the limits by nearest neighbour, then on the family's grid."""
    max_pixels, min_pixels = limits
    original = source.size() if box is None else (int(box.width), int(box.height))
    size = original
    for over in (True, False):  # first down to the most, then up to the least
        area = size[0] * size[1]
        if (area > max_pixels) if over else (area < min_pixels):
            factor = math.sqrt((max_pixels if over else min_pixels) / area)
            size = max(int(size[0] * factor), 1), max(int(size[1] * factor), 1)
    on_grid = setting.interface.fit(size, 2 * max_pixels, 1)  # the processor has no limits of its own
    return ImageView(source, on_grid, box) if size == original else ImageView(Nearest(source, size, box), on_grid)
