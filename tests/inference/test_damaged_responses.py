"""What models write, damaged: answers for the grader and the official scorers, boxes, tool calls, conversations."""

import io
from dataclasses import replace
from functools import partial

import pytest
from damage import check_reader, damaged, damaged_json, processor_seconds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hart_lite.boxes import valid_boxes
from hart_lite.config.prompts import Prompts
from hart_lite.data.images import ImageBytes
from hart_lite.eval.benchmarks.official_scorers import (
    hrbench_letter,
    mme_realworld_letter,
    mmstar_right,
    treebench_miou,
    treebench_right,
    vstar_letter,
)
from hart_lite.grading import grade, normalise, read_answer
from hart_lite.inference.openai_engine import AbsoluteInterface, RelativeInterface
from hart_lite.inference.prompts import question_text
from hart_lite.inference.protocols.base import Setting
from hart_lite.inference.protocols.registry import PROTOCOLS
from hart_lite.models.families.internvl3 import InternVL3
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.types import Box, Example

CHOICES = ("red", "blue", "green", "white")
SIZE = (1120, 560)
RESPONSES = (
    b"<think>It is red.</think>The answer is (A) red.",
    rb"So \boxed{\text{B}} </s>",
    b"<answer>C. green</answer>",
    b"A or B? I choose D.\n\nAnswer: option (D)",
    "\uff21. \u201cred\u201d \u2014 not (B), because 1,000.0".encode(),
    b'[{"bbox_2d": [100, 40, 200, 140], "label": "x"}, {"bbox_2d": [1, 2, 3e9, nan], "image": 2}]',
    b'```json\n[{"bbox_2d": [10, 20, 110, 220], "label": "sign"}]\n```\nand more',
    b"<ref>image 2</ref><box>[[100, 200, 300, 400],[1,2,3]]</box>",
    b"image 1: [0.1, 0.25, 0.5, .75] <box>[10,20,30,40]</box>",
    b'<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200]}}\n</tool_call>',
    b'<tool_call>{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.1, 0.2, 1.0, 0.9], "target_image": 1}}'
    b"</tool_call>",
)
PIECES = ("\\boxed{", "}", "<answer>", "</answer>", "The answer is ", "(A)", "B", "A or B", "not (C)", "</think>", "\n")
ANSWERS = st.lists(st.sampled_from((*PIECES, ". ")) | st.text(max_size=5), max_size=12).map("".join)
RESPONSE = damaged(*RESPONSES).map(lambda data: data.decode("utf-8", "replace"))


# -- answers -------------------------------------------------------------------------------------------------------


@given(ANSWERS | RESPONSE)
def test_the_grader_and_the_official_scorers_never_raise(text):
    for choices in ((), CHOICES, CHOICES[:2]):
        letter = read_answer(text, choices)
        assert letter is None or not choices or letter in "ABCD"[: len(choices)]
        assert grade(text, "B" if choices else "12", choices) in (True, False)
    assert normalise(normalise(text)) == normalise(text)
    mme_realworld_letter(text, [f"({a}) {c}" for a, c in zip("ABCD", CHOICES, strict=True)])
    vstar_letter(text)
    hrbench_letter(text, CHOICES)
    mmstar_right(text, "B")
    treebench_right(text, "B")
    assert 0 <= treebench_miou(text, [(0, 0, 30, 40)]) <= 1


LONG = {
    "braces": r"\boxed{",
    "empty boxes": r"\boxed{ }",
    "tags": "<answer>",
    "empty tags": "<answer> </answer>",
    "phrases": "answer: ",
    "phrases and lines": "the answer is\n",
    "letters": "A or B, ",
    "brackets": "(A) (B) ",
    "verdicts": "so A is B is correct, ",
    "labels": "A. \n",
    "spaces": " ",
    "stars": "*",
    "wrappers": r"\text{",
    "options": "option (",
    "digits": "1",
    "groups": "1,000,",
    "expansion": "\ufdfa",
    "thoughts": "</think>",
    "boxes": "[1, 2, 3, 4",
    "named boxes": '"bbox_2d": [',
    "box tags": "<box>[[1,2,",
    "calls": "<tool_call>{",
    "fences": "```json\n",
}


@pytest.mark.parametrize("name", LONG)
def test_a_hundred_kilobytes_are_read_in_bounded_time(name):
    text = (LONG[name] * 100_000)[:100_000]
    for read in (lambda: grade(text, "B", CHOICES), lambda: check_boxes(text)):
        with processor_seconds():
            read()


# -- boxes ---------------------------------------------------------------------------------------------------------


class InternVLBoxes(InternVL3):
    def __init__(self) -> None:
        """Without a checkpoint: reading boxes needs none."""


class LlavaBoxes(LlavaOneVision):
    def __init__(self) -> None:
        """As above."""


READERS = (AbsoluteInterface(), RelativeInterface(), InternVLBoxes(), LlavaBoxes())


def check_boxes(text: str) -> None:
    """Every way of writing boxes: those that count lie in their image."""
    for reader in READERS:
        for originals in ([SIZE], [SIZE, (3, 5)]):
            resized = [(448, 224), (28, 28)][: len(originals)]
            for *corners, image in reader.boxes_from_text(text, resized, originals):
                boxes, rejected = valid_boxes([corners], originals[image], 4, image=image)
                assert len(boxes) + rejected == 1
                assert all(inside(box, originals[image]) for box in boxes)


def inside(box: Box, size: tuple[int, int]) -> bool:
    return 0 <= box.x1 < box.x2 <= size[0] and 0 <= box.y1 < box.y2 <= size[1]


def test_damaged_boxes_are_inside_their_image_or_none():
    check_reader(lambda data: check_boxes(data.decode("utf-8", "replace")), *RESPONSES)


@given(st.text(st.sampled_from('[](){}<>/0123456789.,-: "_xyboeimagdn\n'), max_size=80))
def test_boxes_of_stray_signs_are_inside_their_image_or_none(text):
    check_boxes(text)
    check_boxes(f'"bbox_2d": [{text}] <box>[[{text}]]</box>')


# -- conversations -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> Example:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(SIZE).convert("RGB").save(file, "PNG")
    return Example("q", (ImageBytes(file.getvalue(), "photo"),), "Which?", "B", CHOICES)


def check_protocols(example: Example, responses: list[str]) -> None:
    """Every protocol, as here and as published, ends within 20 turns with boxes inside the image."""
    prompts = Prompts()
    wording = partial(question_text, prompts)
    here = Setting(AbsoluteInterface(), prompts, wording, 128 * 784, 16 * 784, 784, 0.1, 4, 1.0, 50, 60)
    for protocol in PROTOCOLS.values():
        for setting in (here, replace(here, as_published=True)):
            run = protocol(example, setting)
            next(run)
            with pytest.raises(StopIteration) as end:
                for turn in range(20):
                    run.send(responses[turn % len(responses)])
            assert all(inside(box, SIZE) for box in end.value.value.boxes)


@given(st.lists(RESPONSE, min_size=1, max_size=4))
def test_damaged_conversations_end(example, responses):
    with processor_seconds():
        check_protocols(example, responses)


@given(damaged_json({"bbox_2d": [0.1, 0.2, 300, 1.0], "target_image": 1}))
def test_damaged_tool_calls_end(example, arguments):
    text = arguments.decode()
    with processor_seconds():
        check_protocols(example, [f'<tool_call>{{"name": "crop_image_normalized", "arguments": {text}}}</tool_call>'])
        check_protocols(example, [f'```json\n[{{"bbox_2d": {text}, "label": "x"}}]\n```'])
