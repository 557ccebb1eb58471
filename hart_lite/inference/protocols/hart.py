"""Our own ways of answering (method.md, section 4), with the words, box reading, padding and budgets of training.

full        the whole image and the question, one turn
crops       locate on the whole image, then a new context that holds the crops alone
full+crops  locate, then a new context that holds the whole image and the crops

Boxes are read in the model's own frame. Without a usable box `crops` has no second turn and no answer, and `full+crops`
answers from the whole image.
"""

from __future__ import annotations

from collections.abc import Generator

from hart_lite.inference import prompts
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say, Setting
from hart_lite.models.families.base import Content
from hart_lite.models.views import crop_view, full_views, read_boxes
from hart_lite.types import Box, Example, ImageView

Views = tuple[ImageView, ...]


def full(example: Example, setting: Setting) -> ProtocolRun:
    return Outcome((yield _answer([*_full(example, setting), setting.question], setting, "answer")))


def crops(example: Example, setting: Setting) -> ProtocolRun:
    shown = _full(example, setting)
    boxes, cut, counts = yield from _locate(example, setting, shown)
    if not boxes:
        return Outcome("", boxes, counts)
    text = yield _answer(prompts.verify_content(example, cut), setting)
    return Outcome(text, boxes, counts)


def full_and_crops(example: Example, setting: Setting) -> ProtocolRun:
    shown = _full(example, setting)
    boxes, cut, counts = yield from _locate(example, setting, shown)
    text = yield _answer(prompts.with_crops_content(example, shown, cut), setting)
    return Outcome(text, boxes, counts)


def _full(example: Example, setting: Setting) -> Views:
    return full_views(example, setting.frame, setting.full_pixels, setting.min_pixels)


def _locate(
    example: Example, setting: Setting, shown: Views
) -> Generator[Say, str, tuple[tuple[Box, ...], Views, dict[str, int]]]:
    """Turn 1: the boxes (unpadded), the crops cut around them, and how many boxes were refused."""
    frame, content = setting.frame, prompts.locate_content(example, shown, setting.frame)
    text = yield Say(content, "locate", max_tokens=setting.max_tokens_locate)
    boxes, rejected = read_boxes(example, shown, text, frame, setting.max_boxes, setting.max_box_share)
    budget = setting.crop_pad, setting.crop_pixels, setting.min_pixels
    return boxes, tuple(crop_view(example, box, frame, *budget) for box in boxes), {"rejected_boxes": rejected}


def _answer(content: Content, setting: Setting, kind: str = "verify") -> Say:
    return Say(content, kind, max_tokens=setting.max_tokens_answer)
