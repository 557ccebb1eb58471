"""Our own ways of asking (method.md, sections 1 and 4), in training and after it.

full        the whole image and the question, one turn; in training the loop `direct`
crops       locate on the whole image, then a new context that holds the crops alone; in training the loop `hart`
full+crops  locate, then a new context that holds the whole image and the crops
mgpo        locate, then the crops in the same conversation, which keeps the whole image; a loop of training
given       crops, with boxes that somebody else drew: nothing is located

Two arms of an evaluation say what the crops are worth. They locate as `crops` does and show something else:
noise       crops filled with noise: what is still right did not come from them (LFPC, arXiv 2603.27494)
control     crops of the same sizes from other places: what can be answered without looking in the right place

Boxes are read in the model's own format. Without a usable box `crops` has no second turn and no answer; the others
answer from the whole image.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence

from hart_lite.boxes import control_boxes
from hart_lite.data.noise import Noise
from hart_lite.inference.prompts import fill, locate_content, question_text
from hart_lite.inference.protocols.base import Outcome, Protocol, ProtocolRun, Say, Setting
from hart_lite.models.families.base import Content
from hart_lite.models.views import crop_view, full_views, read_boxes
from hart_lite.types import Box, Example, ImageView

Views = tuple[ImageView, ...]


def full(example: Example, setting: Setting) -> ProtocolRun:
    parts = {"image": _full(example, setting), "question": setting.wording(example)}
    return Outcome((yield _say(setting, fill(setting.prompts.answer, parts), "answer")))


def locate(example: Example, setting: Setting) -> ProtocolRun:
    """Turn 1 alone."""
    boxes, views, counts = yield from _locate(example, setting)
    return Outcome("", boxes, views, counts)


def crops(example: Example, setting: Setting) -> ProtocolRun:
    boxes, views, counts = yield from _locate(example, setting)
    return (yield from _from_views(example, setting, boxes, views, counts))


def noise(example: Example, setting: Setting) -> ProtocolRun:
    boxes, views, counts = yield from _locate(example, setting)
    seeds = (f"{example.id}/{n}" for n in range(len(views)))
    filled = tuple(ImageView(Noise(seed, *view.size), view.size) for seed, view in zip(seeds, views, strict=True))
    return (yield from _from_views(example, setting, boxes, filled, counts))


def control(example: Example, setting: Setting) -> ProtocolRun:
    """Boxes that leave no room for others elsewhere are counted as `control_unplaced`, without an answer."""
    boxes, _, counts = yield from _locate(example, setting)
    others = control_boxes(boxes, [image.size() for image in example.images], random.Random(example.id))
    views = _crops(example, others or (), setting)
    return (yield from _from_views(example, setting, boxes, views, counts | {"control_unplaced": int(others is None)}))


def full_and_crops(example: Example, setting: Setting) -> ProtocolRun:
    boxes, views, counts = yield from _locate(example, setting)
    text = yield _answer(example, setting, setting.prompts.answer_with_crops, views)
    return Outcome(text, boxes, views, counts)


def keep_image(example: Example, setting: Setting) -> ProtocolRun:
    boxes, views, counts = yield from _locate(example, setting, goes_on=True)
    words = setting.prompts.continue_with_crops if boxes else setting.prompts.continue_without_crops
    text = yield _answer(example, setting, words, views or _full(example, setting), fresh=False)
    return Outcome(text, boxes, views, counts)


def given(boxes: Sequence[Box]) -> Protocol:
    """Answers from the crops around these boxes (original pixels) alone."""

    def from_given_boxes(example: Example, setting: Setting) -> ProtocolRun:
        views = _crops(example, boxes, setting)
        text = yield _answer(example, setting, setting.prompts.verify, views)
        return Outcome(text, tuple(boxes), views)

    return from_given_boxes


def _from_views(
    example: Example, setting: Setting, boxes: tuple[Box, ...], views: Views, counts: dict[str, int]
) -> ProtocolRun:
    """The answer from these views alone; without any there is no turn and no answer."""
    if not views:
        return Outcome("", boxes, counts=counts)
    text = yield _answer(example, setting, setting.prompts.verify, views)
    return Outcome(text, boxes, views, counts)


def _full(example: Example, setting: Setting) -> Views:
    return full_views(example, setting.interface, setting.full_pixels, setting.min_pixels)


def _locate(
    example: Example, setting: Setting, goes_on: bool = False
) -> Generator[Say, str, tuple[tuple[Box, ...], Views, dict[str, int]]]:
    """Turn 1: the boxes (unpadded), the crops cut around them, and how many boxes were refused."""
    shown, interface = _full(example, setting), setting.interface
    content = locate_content(setting.prompts, example, shown, interface)
    text = yield _say(setting, content, "locate", goes_on=goes_on)
    boxes, rejected = read_boxes(example, shown, text, interface, setting.max_boxes, setting.max_box_share)
    return boxes, _crops(example, boxes, setting), {"rejected_boxes": rejected}


def _crops(example: Example, boxes: Sequence[Box], setting: Setting) -> Views:
    limits = setting.crop_pad, setting.crop_pixels, setting.min_pixels
    return tuple(crop_view(example, box, setting.interface, *limits) for box in boxes)


def _answer(example: Example, setting: Setting, words: str, views: Views, fresh: bool = True) -> Say:
    question = question_text(setting.prompts, example)
    parts = {"image": _full(example, setting), "question": question, "crops": views}
    return _say(setting, fill(words, parts), "verify", fresh)


def _say(setting: Setting, content: Content, kind: str, fresh: bool = True, goes_on: bool = False) -> Say:
    limit = setting.max_tokens_locate if kind == "locate" else setting.max_tokens_answer
    return Say(content, kind, setting.prompts.system or "", fresh, max_tokens=limit, goes_on=goes_on)
