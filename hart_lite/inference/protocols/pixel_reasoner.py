r"""Pixel-Reasoner (TIGER-AI-Lab/Pixel-Reasoner): the model reasons, crops with a tool as it sees fit, and answers
within \boxed{}. At most four calls, 2,048 tokens a response and 12 K a conversation. The question is asked in the
setting's words.

Frame: shares of the image's width and height, 0 to 1; numbers beyond that are taken for the model's own frame. The
whole image has 512 to 5,120 tokens of 28 x 28 pixels, a crop 256 to 5,120, or what the setting's budgets allow where
that is less. Each crop is padded by 0.1 of the *image* on every side (protocol, not a fault): a point in the middle
becomes 4 % of the image. It must exceed 28 pixels a side. `target_image` counts the question's images and then the
crops. A protocol sees no tokens: 784 pixels or four characters count as one against the 12 K.

Known faults, reproduced with `as_published`:
- only numbers *below* 1 count as shares, so that a box which reaches the border (1.0) is read as pixels;
- numbers that are pixels are divided by the size of the image that the tool holds, though the model saw it scaled;
- the tool holds an image of the question at 256 to 8,000 tokens: of a frame of 7680 x 4320 it crops 43 % of the pixels
  a side, and its crop has no more. By default a crop has all pixels of the original;
- the prompt speaks of `crop_image`, the tool is `crop_image_normalized`: a call by the name in the prompt is an error;
- `target_image` 0 or below counts from the end of the question's images;
- corners in reverse order are not sorted;
- where the limit ends a conversation at a call, what was written before the call is taken for the answer.
Not reproduced: a crop of a crop is cut from the original image here, there from the enlarged crop; a crop that is
enlarged to its least size is sharper here, as it is scaled from the original; `select_frames`, which is for videos, is
not offered. Decoding is greedy, as in the released evaluation, which needs its pixel limits in every worker's
environment, where a server may enlarge crops to 512 tokens; here they are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hart_lite.boxes import valid_boxes
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say, Setting
from hart_lite.inference.protocols.tools import CLOSE, ToolError, read_arguments, read_corners, to_original
from hart_lite.models.views import full_views
from hart_lite.types import Box, Example, ImageView
from hart_lite.utils.text import shown

SYSTEM = (
    "You are a helpful assistant.\n\n"
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "crop_image_normalized", "description": "Zoom in on the image based on '
    'the bounding box coordinates. It is useful when the object or text in the image is too small to be seen.", '
    '"parameters": {"type": "object", "properties": {"bbox_2d": {"type": "array", "description": "coordinates for '
    'bounding box of the area you want to zoom in. Values should be within [0.0,1.0].", "items": {"type": "number"}}, '
    '"target_image": {"type": "number", "description": "The index of the image to crop. Index from 1 to the number of '
    'images. Choose 1 to operate on original image."}}, "required": ["bbox_2d", "target_image"]}}}\n</tools>\n\n'
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML "
    'tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
GUIDELINES = (
    "\n\nGuidelines: Understand the given visual information and the user query. Determine if it is beneficial to "
    "employ the given visual operations (tools). For a video, we can look closer by `select_frames`. For an image, we "
    "can look closer by `crop_image`. Reason with the visual information step by step, and put your final answer "
    "within \\boxed{}."
)
TOOL, NAME_IN_PROMPT = "crop_image_normalized", "crop_image"
MOST, LEAST, LEAST_CROP = 5120 * 784, 512 * 784, 256 * 784  # pixels of a view
PAD, SMALLEST = 0.1, 28  # share of the image; pixels of the image that is cropped
HELD_MOST, HELD_LEAST = 8000 * 784, 256 * 784  # pixels of a question's image as the released tool holds it
MAX_CALLS, MAX_TOKENS, MAX_CONTEXT = 4, 2048, 12 * 1024 - 200


@dataclass
class _Talk:
    """A conversation so far: the images in it, what was looked at, how much was read and written."""

    images: list[ImageView]
    boxes: list[Box] = field(default_factory=list)
    errors: int = 0
    characters: int = 0

    @property
    def tokens(self) -> float:
        return sum(view.size[0] * view.size[1] for view in self.images) / 784 + self.characters / 4

    @property
    def calls(self) -> int:
        return len(self.boxes) + self.errors


def pixel_reasoner(example: Example, setting: Setting) -> ProtocolRun:
    max_pixels = min(setting.full_pixels, MOST)
    full = full_views(example, setting.interface, max_pixels, min(LEAST, max_pixels))
    asked = f"{setting.wording(example)}\n\n{GUIDELINES}"
    talk = _Talk(list(full), characters=len(SYSTEM) + len(asked))
    limit = min(setting.max_tokens_answer, MAX_TOKENS)
    text = yield Say([*full, asked], system=SYSTEM, max_tokens=limit, goes_on=True)
    talk.characters += len(text)
    while text.endswith(CLOSE) and talk.calls < MAX_CALLS and talk.tokens <= MAX_CONTEXT:
        crop = _crop(example, setting, talk, text)
        text = yield Say(crop, "tool", fresh=False, max_tokens=limit, goes_on=True)
        talk.characters += len(text)
    counts = {"tool_calls": talk.calls, "tool_errors": talk.errors}
    found = tuple(talk.boxes), tuple(talk.images[len(full) :])
    if text.endswith(CLOSE):  # a call is no answer
        return Outcome(text if setting.as_published else "", *found, counts | {"unanswered": 1})
    return Outcome(text, *found, counts)


def _crop(example: Example, setting: Setting, talk: _Talk, text: str) -> list[str | ImageView]:
    """Carry out the last call of a response: the message that says what came of it."""
    try:
        box, view = _cut(example, setting, talk.images, text)
    except ToolError as error:
        talk.errors += 1
        return [f"\nExecution error:\n{error}\n"]
    talk.boxes.append(box)
    talk.images.append(view)
    return [f"\nHere is the cropped image (Image Size: {view.size[0]}x{view.size[1]}):", view]


def _cut(example: Example, setting: Setting, images: list[ImageView], text: str) -> tuple[Box, ImageView]:
    """(the box that was asked for, in original pixels; the padded crop). A box of less than a pixel is as the padding
    makes it."""
    how, names = ("json", (TOOL,)) if setting.as_published else (None, (TOOL, NAME_IN_PROMPT))
    arguments = read_arguments(text, names, last=True, published=how)
    target = _target(arguments.get("target_image"), images, len(example.images), setting.as_published)
    image = next(n for n, source in enumerate(example.images) if source is target.source)
    original = target.source.size()
    region = target.box or Box(0, 0, *original)
    # As the tool has it: an image of the question as it is held, a crop as it was shown.
    held = _held(original) if setting.as_published else original
    size = held if target.box is None else target.size
    shares = _shares(read_corners(arguments, how), setting, target, region, size)
    x1, y1, x2, y2 = shares
    padded = tuple(min(max(v, 0.0), 1.0) for v in (x1 - PAD, y1 - PAD, x2 + PAD, y2 + PAD))
    width, height = (padded[2] - padded[0]) * size[0], (padded[3] - padded[1]) * size[1]
    if not (width > SMALLEST and height > SMALLEST):
        raise ToolError(f"Cropped image is too small: {width:.0f}x{height:.0f}")
    left, top, right, bottom = Box(*_within(region, padded)).whole_pixels(original)
    cut = Box(left, top, right, bottom, image)
    found, _ = valid_boxes([_within(region, shares)], original, 1, image=image)
    max_pixels = min(setting.crop_pixels, MOST)
    cropped = (
        max(round((right - left) * held[0] / original[0]), 1),
        max(round((bottom - top) * held[1] / original[1]), 1),
    )
    seen = setting.interface.fit(cropped, max_pixels, min(LEAST_CROP, max_pixels))
    return (found[0] if found else cut), ImageView(target.source, seen, cut)


def _held(size: tuple[int, int]) -> tuple[int, int]:
    area = size[0] * size[1]
    factor = math.sqrt(min(max(area, HELD_LEAST), HELD_MOST) / area)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _target(number: Any, images: list[ImageView], of_question: int, as_published: bool) -> ImageView:
    if type(number) is int and 1 <= number <= len(images):
        return images[number - 1]
    if as_published and type(number) is int and 1 - of_question <= number <= 0:
        return images[of_question + number - 1]
    raise ToolError(
        f"Incorrect `target_image`. You can only select previous images within [1,{len(images)}], not {shown(number)}"
    )


def _shares(
    corners: list[float], setting: Setting, target: ImageView, region: Box, size: tuple[int, int]
) -> tuple[float, ...]:
    """Corners as shares of the sides of the image they are on."""
    if setting.as_published:
        return _divided(corners, (1, 1) if all(v < 1 for v in corners) else size)
    if not all(v <= 1 for v in corners):
        sides = region.width, region.height
        corners = list(_divided(to_original(corners, setting.interface, target.size, sides), sides))
    x1, y1, x2, y2 = corners
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _divided(corners: Sequence[float], sides: tuple[float, float]) -> tuple[float, ...]:
    return tuple(v / side for v, side in zip(corners, (*sides, *sides), strict=True))


def _within(region: Box, shares: Sequence[float]) -> tuple[float, float, float, float]:
    """Shares of a region's sides in original pixels."""
    x1, y1, x2, y2 = shares
    width, height = region.width, region.height
    return region.x1 + x1 * width, region.y1 + y1 * height, region.x1 + x2 * width, region.y1 + y2 * height
