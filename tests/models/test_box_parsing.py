"""Every form in which models write boxes, read by every family."""

# ruff: noqa: RUF001  (full-width punctuation is meant)

import json
import math

import pytest
from damage import processor_seconds

from hart_lite.inference.openai_engine import AbsoluteInterface, RelativeInterface
from hart_lite.models.families.internvl3 import InternVL3
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.models.families.qwen2_5_vl import Qwen25VL

READERS = (Qwen25VL, InternVL3, LlavaOneVision, AbsoluteInterface, RelativeInterface)

BOX = (10.0, 20.0, 30.0, 40.0, 0)
TWO = [BOX, (50.0, 60.0, 70.0, 80.0, 0)]
ENTRY = '{"bbox_2d": [10, 20, 30, 40]}'
FORMAT = '[{"bbox_2d": [x1, y1, x2, y2]}]'
FORMS = {
    "indented": (json.dumps([{"bbox_2d": [10, 20, 30, 40]}], indent=2), [BOX]),
    "indented far": (json.dumps([[[10, 20, 30, 40]]], indent=12), [BOX]),
    "indented in tags": (
        "<ref>sign</ref><box>[[\n        10,\n        20,\n        30,\n        40\n    ]]</box>",
        [BOX],
    ),
    "tabs after the colon": ('{"bbox_2d":\t\t\t\t\t\t[10, 20, 30, 40]}', [BOX]),
    "quoted numbers": ('{"bbox_2d": ["10", "20", "30", "40"]}', [BOX]),
    "single quotes": ("{'bbox_2d': ['10', '20', '30', '40']}", [BOX]),
    "a quoted list": ('{"bbox_2d": "[10, 20, 30, 40]"}', [BOX]),
    "a quoted list without brackets": ('{"bbox_2d": "10, 20, 30, 40", "label": "5"}', [BOX]),
    "full-width punctuation": ('{"bbox_2d"：[10，20，30，40]}', [BOX]),
    "full-width brackets": ("［10，20，30，40］", [BOX]),
    "full-width numbers": ("［１０、２０、３０、４０］", [BOX]),
    "two points in a list": ("[[10, 20], [30, 40]]", [BOX]),
    "two points under a name": ('{"bbox_2d": [[10, 20], [30, 40]]}', [BOX]),
    "two boxes under a name": ('{"bbox_2d": [[10, 20, 30, 40], [50, 60, 70, 80]]}', TWO),
    "two names": ('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox": [50, 60, 70, 80]}]', TWO),
    "a list within, second": ('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [[50, 60, 70, 80]]}]', TWO),
    "tokens of Qwen2-VL": ("<|object_ref_start|>a<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>", [BOX]),
    "two of them": ("<|box_start|>(10,20),(30,40)<|box_end|><|box_start|>(50,60),(70,80)<|box_end|>", TWO),
    "two of them, as decoded without control tokens": ("the sign(10,20),(30,40)(50,60),(70,80)", TWO),
    "four numbers in a tag": ("<box>10, 20, 30, 40</box>", [BOX]),
    "round brackets": ("It is at (10, 20, 30, 40).", [BOX]),
    "from one point to another": ("from (10, 20) to (30, 40)", [BOX]),
    "without commas": ("[10 20 30 40]", [BOX]),
    "named without a list": ("bbox_2d: 10, 20, 30, 40", [BOX]),
    "sides by name": ('{"x1": 10, "y1": 20, "x2": 30, "y2": 40}', [BOX]),
    "sides by other names, in another order": ("{'xmin': 10, 'xmax': 30, 'ymin': 20, 'ymax': 40}", [BOX]),
    "the format quoted in a thought": (
        f'<think>The format is [{{"bbox_2d": [x1, y1, x2, y2]}}]</think>[{ENTRY}]',
        [BOX],
    ),
    "the format quoted without one": (f"As {FORMAT}: [{ENTRY}]", [BOX]),
    "another box in a thought": (f'<think>[{{"bbox_2d": [1, 2, 3, 4]}}]? No.</think>\n{ENTRY}', [BOX]),
    "a box in a thought alone": (f"<think>{ENTRY}</think> There.", [BOX]),
    "an announced box hides lists": (f"[1, 2, 3, 4] {ENTRY} (5, 6), (7, 8)", [BOX]),
    "a label with numbers": ('{"bbox_2d": [10, 20, 30, 40], "label": "[1, 2, 3, 4]", "size": [1, 2, 3, 4]}', [BOX]),
    "a box cut off": (f'[{ENTRY}, {{"bbox_2d": [50, 60, 70, 8', [BOX]),
    "a quoted box cut off": ('{"bbox_2d": "50, 60, 70, 8', []),
    "the format alone": (FORMAT, []),
    "four points": ("[[10, 20], [30, 20], [30, 40], [10, 40]]", []),
    "one point": ("The sign is at (10, 20).", []),
    "two points of two things": ("one at (10, 20) and one at (30, 40)", []),
    "three numbers": ("[10, 20, 30]", []),
    "five numbers": ('{"bbox_2d": [10, 20, 30, 40, 50]}', []),
    "numbers in prose": ("In 1999, 20 of 30, or 40.", []),
    "two sides": ("left: 10, top: 20", []),
    "a power": ("[10⁵, 20, 30, 40]", []),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("text", "boxes"), FORMS.values(), ids=FORMS.keys())
def test_every_form_is_read_by_every_family(reader, text, boxes):
    assert reader.written_boxes(reader, text, 1) == boxes


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "?", "abc"])
def test_an_announced_box_of_what_is_no_number_is_counted(reader, number):
    first, second = reader.written_boxes(reader, f'[{{"bbox_2d": [1, 2, {number}, 4]}}, {ENTRY}]', 1)
    assert math.isnan(first[2]) and second == BOX
    assert reader.written_boxes(reader, f"[1, 2, {number}, 4]", 1) == []


@pytest.mark.parametrize("reader", [InternVL3, LlavaOneVision])
def test_the_words_before_a_list_name_the_image_of_all_its_boxes(reader):
    text = "image 2: [[10, 20, 30, 40], [50, 60, 70, 80]], image 1: (10, 20), (30, 40)"
    assert reader.written_boxes(reader, text, 2) == [(*TWO[0][:4], 1), (*TWO[1][:4], 1), BOX]


def test_an_entry_in_full_width_punctuation_names_its_image():
    text = "{“image”：2，“bbox_2d”：［10，20，30，40］}"
    assert Qwen25VL.written_boxes(Qwen25VL, text, 2) == [(*BOX[:4], 1)]


HOSTILE = {
    "open": "[" * 50_000 + "}" * 50_000,
    "tags": "<box>[" * 15_000 + "</box>" * 15_000,
    "points": "(1,2)," * 16_000,
    "names": "bbox_2d : " * 10_000,
    "sides": "x1: 1 " * 16_000,
    "thoughts": "</think>" * 12_000,
    "digits": "[" + "1" * 100_000 + ", 2, 3, 4]",
    "spaces": "bounding box" + " " * 100_000,
}


@pytest.mark.parametrize("reader", READERS[:3])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_read_in_bounded_time(reader, text):
    with processor_seconds(1.0):
        reader.written_boxes(reader, text, 2)
