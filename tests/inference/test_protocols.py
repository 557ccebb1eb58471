"""The protocols on scripted answers: every prompt, what is shown next, every limit, and that hostile text ends."""

import json
from dataclasses import replace

import pytest
from pictures import Photo
from PIL import Image

from hart_lite.config.prompts import Prompts
from hart_lite.errors import HartError
from hart_lite.inference import prompts
from hart_lite.inference.openai_engine import AbsoluteInterface, RelativeInterface
from hart_lite.inference.protocols import deepeyes, mgpo, pixel_reasoner
from hart_lite.inference.protocols.base import Outcome, Say, Setting
from hart_lite.inference.protocols.registry import PROTOCOLS, find
from hart_lite.types import Box, Example, ImageView

PHOTO = Photo(1120, 560)  # seen at 448 x 224 within 100,352 pixels: a scale of 2.5
CHOICES = ("lion", "tiger", "bear", "wolf")
EXAMPLE = Example("q", (PHOTO,), "Which animal is it", "B", CHOICES)
WORDS = Prompts()
SETTING = Setting(
    interface=AbsoluteInterface(),
    prompts=WORDS,
    wording=lambda example: f"the benchmark's own words about {example.id}",
    full_pixels=128 * 784,
    crop_pixels=16 * 784,
    min_pixels=784,
    crop_pad=0.0,
    max_boxes=4,
    max_box_share=1.0,
    max_tokens_locate=50,
    max_tokens_answer=60,
)
FREE = replace(SETTING, full_pixels=10**9, crop_pixels=10**9, max_tokens_locate=10**9, max_tokens_answer=10**9)
PUBLISHED = replace(SETTING, as_published=True)
BOX = '[{"bbox_2d": [100, 40, 200, 140]}]'  # 250, 100, 500, 350 of the original


def talk(mode: str, *answers: str, setting: Setting = SETTING, example: Example = EXAMPLE) -> tuple[list[Say], Outcome]:
    """What is said, and what it comes to. All answers are used."""
    run = PROTOCOLS[mode](example, setting)
    said = [next(run)]
    for n, answer in enumerate(answers):
        try:
            said.append(run.send(answer))
        except StopIteration as end:
            assert n == len(answers) - 1, "an answer was not asked for"
            return said, end.value
    raise AssertionError("the protocol goes on")


def words(say: Say) -> str:
    return "".join("<image>" if isinstance(part, ImageView) else part for part in say.content)


def views(say: Say) -> list[ImageView]:
    return [part for part in say.content if isinstance(part, ImageView)]


FULL = ImageView(PHOTO, (448, 224))


def test_a_mode_that_is_not_there_names_the_nearest():
    with pytest.raises(HartError, match=r"unknown mode 'ful\+crops' \(did you mean 'full\+crops'"):
        find("ful+crops")
    assert find("mgpo") is mgpo.mgpo


# -- ours ----------------------------------------------------------------------------------------------------------


def test_full_says_the_words_it_is_given():
    [say], outcome = talk("full", "(B)")
    assert (say.content, say.kind, say.system, say.max_tokens, say.fresh) == (
        [FULL, "the benchmark's own words about q"], "answer", "", 60, True)  # fmt: skip
    assert outcome == Outcome("(B)")


def test_crops_are_all_that_the_second_turn_sees():
    first, second = talk("crops", BOX, "(B)")[0]
    assert first.content == prompts.locate_content(WORDS, EXAMPLE, [FULL], AbsoluteInterface())
    assert (first.kind, first.max_tokens, second.kind, second.max_tokens) == ("locate", 50, "verify", 60)
    crop = ImageView(PHOTO, (112, 112), Box(250, 100, 500, 350))
    asked = {"question": prompts.question_text(WORDS, EXAMPLE), "crops": [crop]}
    assert second.content == prompts.fill(WORDS.verify, asked)
    assert views(second) == [crop]
    assert second.fresh and second.keep is None
    outcome = Outcome("(B)", (Box(250, 100, 500, 350),), (crop,), {"rejected_boxes": 0})
    assert talk("crops", BOX, "(B)")[1] == outcome


def test_crops_without_a_box_are_no_answer():
    [_], outcome = talk("crops", "The answer is (B).")
    assert outcome == Outcome("", counts={"rejected_boxes": 0})
    [_], outcome = talk("crops", '[{"bbox_2d": [900, 900, 999, 999]}]')
    assert outcome.counts == {"rejected_boxes": 1}


def test_full_and_crops_sees_both_and_without_a_box_the_image_alone():
    _, second = talk("full+crops", BOX, "(B)")[0]
    assert [view.box for view in views(second)] == [None, Box(250, 100, 500, 350)]
    _, second = talk("full+crops", "nowhere", "(B)")[0]
    assert views(second) == [FULL]


def test_boxes_are_padded_capped_and_refused_as_in_training():
    several = ", ".join(f'{{"bbox_2d": [{x}, 0, {x + 40}, 40]}}' for x in range(0, 400, 40))
    (_, second), outcome = talk("crops", f"[{several}]", "(B)", setting=replace(SETTING, max_boxes=2, crop_pad=0.1))
    assert outcome.boxes == (Box(0, 0, 100, 100), Box(100, 0, 200, 100))  # unpadded
    assert [view.box for view in views(second)] == [Box(0, 0, 110, 110), Box(90, 0, 210, 110)]
    assert outcome.counts == {"rejected_boxes": 8}
    _, outcome = talk("full+crops", '[{"bbox_2d": [0, 0, 448, 224]}]', "", setting=replace(SETTING, max_box_share=0.5))
    assert (outcome.boxes, outcome.counts) == ((), {"rejected_boxes": 1})


def test_a_relative_frame_reads_thousandths():
    setting = replace(SETTING, interface=RelativeInterface())
    (first, _), outcome = talk("crops", '[{"bbox_2d": [500, 250, 750, 500]}]', "(B)", setting=setting)
    assert outcome.boxes == (Box(560, 140, 840, 280),)
    assert "0 to 1000" in words(first)


# -- mgpo ----------------------------------------------------------------------------------------------------------

ENTRY = '{"bbox_2d": [100, 40, 200, 140], "label": "an animal"}'
BLOCK = f"It is there.\n```json\n[\n{ENTRY}\n]\n```"
MGPO_CHOICES = "The choices are listed below:\n(A) lion\n(B) tiger\n(C) bear\n(D) wolf\n"


def test_mgpo_is_one_conversation_cut_after_the_code_block():
    (first, second), outcome = talk("mgpo", BLOCK + " And so it is (A).", r"\boxed{B}")
    assert words(first) == (
        "<image> Question: Which animal is it. Out the coordinates of the key image area relevant to the problem in "
        "JSON format."
    )
    assert first.system == mgpo.SYSTEM.replace("(A, B, C, D, or E)", "(A, B, C, or D)") != mgpo.SYSTEM
    assert (first.kind, first.fresh, first.max_tokens) == ("locate", True, 50)
    assert (second.kind, second.fresh, second.keep, second.max_tokens, second.system) == (
        "answer",
        False,
        BLOCK,
        60,
        "",
    )
    assert words(second) == (
        "Based on the provided coordinates, return the sub-image:\n<image>\n"
        f"Question: Which animal is it {MGPO_CHOICES}Carefully analyze both the original image and the enlarged "
        "sub-image to solve the question step by step. If the sub-image does not provide sufficient information, refer "
        "to the original image to find the solution. Present your reasoning clearly, and provide the final answer (A, "
        "B, C, or D) enclosed within \\boxed{}."
    )
    [crop] = views(second)
    assert (crop.box, crop.size) == (Box(250, 100, 500, 350), (112, 112))
    assert outcome == Outcome(r"\boxed{B}", (Box(250, 100, 500, 350),), (crop,), {"rejected_boxes": 0})


def test_mgpo_without_a_box_shows_the_image_again():
    for setting in (SETTING, PUBLISHED):
        (first, second), outcome = talk("mgpo", "I do not know.", "A", setting=setting)
        assert views(second) == views(first)
        assert second.keep is None
        assert words(second).startswith(
            "Not providing correct coordinates or invalid coordinate values, return the original image:\n<image>\n"
            f"Question: Which animal is it {MGPO_CHOICES}Carefully analyze the original image to solve"
        )
        assert outcome == Outcome("A", counts={"rejected_boxes": 0})


@pytest.mark.parametrize(
    ("choices", "named"), [((), ""), (("a", "b"), " (A or B)"), (tuple("abcdef"), " (A, B, C, D, E, or F)")]
)
def test_mgpo_asks_for_the_letters_there_are(choices, named):
    example = replace(EXAMPLE, question="What?", choices=choices)
    (first, second), _ = talk("mgpo", BLOCK, "", example=example)
    for text in (first.system, words(second)):
        assert f"the final answer{named} enclosed within" in text
    assert "Question: What? Out" in words(first)
    (first, second), _ = talk("mgpo", BLOCK, "", example=example, setting=PUBLISHED)
    assert first.system == mgpo.SYSTEM
    assert words(second).endswith(mgpo.WITH_SUB_IMAGE)


def test_mgpo_as_published_takes_one_labelled_box_of_integers():
    wanted = (Box(250, 100, 500, 350),)
    entries = {
        f"[{ENTRY}, {ENTRY.replace('100', '0')}]": wanted,  # the first one only
        f'[{{"bbox_2d": [1, 2, 3.5, 4], "label": ""}}, {ENTRY}]': wanted,
        '[{"bbox_2d": [100, 40, 200, 140]}]': (),  # no label
        '[{"bbox_2d": [100.0, 40, 200, 140], "label": "a"}]': (),
        f"{ENTRY}": (),  # no list
        "[]": (),
        "[" * 100_000: (),
    }
    for entry, boxes in entries.items():
        assert talk("mgpo", f"```json\n{entry}\n```", "", setting=PUBLISHED)[1].boxes == boxes
    assert talk("mgpo", f"[{ENTRY}]", "", setting=PUBLISHED)[1].boxes == ()  # no block
    assert talk("mgpo", f"```json\n[1]\n```\n```json\n[{ENTRY}]\n```", "", setting=PUBLISHED)[1].boxes == wanted
    assert talk("mgpo", f"[{ENTRY}]", "")[1].boxes == wanted


@pytest.mark.parametrize(
    ("corners", "published", "fixed"),
    [
        ([0, 0, 28, 100], 0, 1),  # a side of 28 resized pixels is too small there
        ([0, 0, 29, 100], 1, 1),
        ([420, 0, 449, 100], 0, 1),  # a pixel outside
        ([200, 140, 100, 40], 0, 1),  # reversed
        ([0, 0, 448, 224], 1, 1),
        ([5, 5, 5, 100], 0, 0),
        ([-300, 0, -100, 100], 0, 0),
        ([10**400, 0, 10**401, 100], 0, 0),
    ],
)
def test_mgpo_boxes_that_count(corners, published, fixed):
    said = f'```json\n[{{"bbox_2d": {corners}, "label": "x"}}]\n```'
    for setting, valid in ((PUBLISHED, published), (SETTING, fixed)):
        (_, second), outcome = talk("mgpo", said, "", setting=setting)
        assert len(outcome.boxes) == valid
        assert words(second).startswith(mgpo.SUB_IMAGE if valid else mgpo.NO_SUB_IMAGE)
        if setting is PUBLISHED:
            assert outcome.counts == {"rejected_boxes": 1 - valid}
            assert second.keep == said


def test_mgpo_as_published_cuts_whole_pixels_and_scales_by_nearest_neighbour():
    photo = Photo(1000, 700)  # within 1,024 x 784 pixels: 1.2 of it, so the image is seen at 1120 x 784
    limits = replace(PUBLISHED, full_pixels=1280 * 784, crop_pixels=1280 * 784)
    said = '```json\n[{"bbox_2d": [101, 53, 203, 155], "label": ""}]\n```'
    (first, second), outcome = talk("mgpo", said, "", setting=limits, example=replace(EXAMPLE, images=(photo,)))
    [full], [crop] = views(first), views(second)
    assert (full.source, full.size) == (photo, (1008, 700))  # within the limits: the grid alone
    assert outcome.boxes == (Box(100, 53, 201, 155),)  # 101 / 1008 * 1000 = 100.2, 203 / 1008 * 1000 = 201.4
    # 101 x 102 pixels are enlarged to 200,704 by nearest neighbour: 445 x 450, then fit to the grid
    nearest = photo.load().crop((100, 53, 201, 155)).resize((445, 450), Image.Resampling.NEAREST)
    assert crop.source.load().tobytes() == nearest.tobytes()
    assert crop.size == AbsoluteInterface().fit((445, 450), 1280 * 784, 256 * 784)
    assert crop.load().tobytes() == nearest.resize(crop.size, Image.Resampling.BICUBIC).tobytes()
    (_, second), outcome = talk("mgpo", said, "", setting=replace(limits, as_published=False),
                                example=replace(EXAMPLE, images=(photo,)))  # fmt: skip
    [crop] = views(second)
    assert crop.source is photo
    assert outcome.boxes[0].x1 == pytest.approx(101 / 1008 * 1000)


def test_mgpo_as_published_rounds_to_the_grid_beyond_its_limits():
    """1717 x 2463 is scaled to 836 x 1200, and each side is rounded: 840 x 1204 are over 1,280 tokens."""
    tall = replace(EXAMPLE, images=(Photo(1717, 2463),))
    for setting, size in ((replace(FREE, as_published=True), (840, 1204)), (FREE, (840, 1176))):
        assert views(talk("mgpo", "", "", setting=setting, example=tall)[0][0])[0].size == size


def test_mgpo_goes_by_its_own_limits_and_by_smaller_budgets():
    small, large = replace(EXAMPLE, images=(Photo(56, 56),)), replace(EXAMPLE, images=(Photo(4000, 3000),))
    for setting in (FREE, replace(FREE, as_published=True)):
        assert views(talk("mgpo", "", "", setting=setting, example=small)[0][0])[0].size == (448, 448)
        seen = views(talk("mgpo", "", "", setting=setting, example=large)[0][0])[0].size
        assert 0.9 * 1280 * 784 < seen[0] * seen[1] <= 1280 * 784
        assert [say.max_tokens for say in talk("mgpo", "", "", setting=setting)[0]] == [8192, 8192]
    assert views(talk("mgpo", "", "", example=small)[0][0])[0].size == (308, 308)  # 100,352 of 200,704


# -- deepeyes ------------------------------------------------------------------------------------------------------


def zoom(corners, name: str = "image_zoom_in_tool") -> str:
    call = json.dumps({"name": name, "arguments": {"bbox_2d": corners, "label": "x"}})
    return f"<think>Closer.</think> <tool_call>{call}</tool_call>"


def test_deepeyes_zooms_until_it_answers():
    said, outcome = talk("deepeyes", zoom([100, 40, 200, 140]), zoom([0, 0, 50, 50.5]), "<answer>B</answer>")
    assert words(said[0]) == (
        "<image>Question: Which animal is it\nOptions: \nA. lion\nB. tiger\nC. bear\nD. wolf\n\n"
        "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  <think>...</think>  "
        "<tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
    )
    assert said[0].system == deepeyes.SYSTEM
    assert said[0].system.splitlines()[-3:] == [
        "<tool_call>  ",
        '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the apple on the desk"}}  ',  # noqa: E501
        "</tool_call>",
    ]
    assert words(said[1]) == "<tool_response><image>" + deepeyes.THINK_FIRST + "</tool_response>"
    assert [(say.kind, say.fresh, say.keep, say.max_tokens) for say in said] == [
        ("answer", True, None, 60), ("tool", False, None, 60), ("tool", False, None, 60)]  # fmt: skip
    assert [view.box for say in said[1:] for view in views(say)] == [Box(250, 100, 500, 350), Box(0, 0, 125, 127)]
    assert outcome.text == "<answer>B</answer>"
    assert outcome.boxes == (Box(250, 100, 500, 350), Box(0, 0, 125, 126.25))
    assert outcome.counts == {"tool_calls": 2, "tool_errors": 0}


def test_deepeyes_as_published_cuts_unscaled():
    said, outcome = talk("deepeyes", zoom([100, 40, 200, 140]), "<answer>B</answer>", setting=PUBLISHED)
    assert views(said[1])[0].box == outcome.boxes[0] == Box(100, 40, 200, 140)


def test_deepeyes_stops_where_nothing_is_called():
    for said in ("B", "", "<answer>B</answer>", zoom([1, 2, 3, 4]) + "<answer>B</answer>"):
        [_], outcome = talk("deepeyes", said)
        assert outcome == Outcome(said, counts={"tool_calls": 0, "tool_errors": 0})


def test_deepeyes_gives_up_after_eleven_calls():
    for setting, text in ((SETTING, ""), (PUBLISHED, zoom([0, 0, 50, 50]))):
        said, outcome = talk("deepeyes", *[zoom([0, 0, 50, 50])] * 11, setting=setting)
        assert len(said) == 11
        assert outcome.text == text
        assert len(outcome.boxes) == 11
        assert outcome.counts == {"tool_calls": 11, "tool_errors": 0, "unanswered": 1}


BAD_CALLS = [
    "<tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>{'name': 'image_zoom_in_tool'}</tool_call>",
    "<tool_call>" + "[" * 8_000 + "</tool_call>",
    "<tool_call>" + "9" * 8_000 + "</tool_call>",
    "<tool_call>[1, 2]</tool_call>",
    "<tool_call>" * 2_000,
    zoom([1, 2, 3]),
    zoom([1, 2, 3, "x"]),
    zoom([1, 2, 3, True]),
    zoom([[1, 2, 3, 4], [5, 6, 7, 8]]),
    zoom(None),
    zoom([float("nan"), 0, 50, 50]),
    zoom([float("-inf"), 0, 50, 50]),
    zoom([0, 0, 1e300, 50]),
    zoom([10**400, 0, 10**401, 50]),
    zoom([0, 0, 0, 50]),
    zoom([5000, 5000, 6000, 6000]),
]


@pytest.mark.parametrize("call", BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_a_call_that_is_wrong_is_counted_and_told(call):
    said, outcome = talk("deepeyes", call, "<answer>B</answer>")
    assert words(said[1]).startswith("Error: ") and len(words(said[1])) < 400
    assert outcome == Outcome("<answer>B</answer>", counts={"tool_calls": 1, "tool_errors": 1})
    [_], outcome = talk("deepeyes", call, setting=PUBLISHED)  # there, it ends in an exception
    assert outcome == Outcome(call, counts={"tool_calls": 1, "tool_errors": 1})
    said, outcome = talk("deepeyes", *[call] * 11)
    assert outcome.counts == {"tool_calls": 11, "tool_errors": 11, "unanswered": 1}


def test_deepeyes_as_published_rounds_corners_to_whole_pixels():
    said, outcome = talk("deepeyes", zoom([10.6, 20.4, 100.4, 200.6]), "<answer>", setting=PUBLISHED)
    assert outcome.boxes == (Box(11, 20, 100, 201),)
    assert views(said[1])[0].box.xyxy == (11, 20, 100, 201)


def test_deepeyes_sorts_corners_and_knows_its_tool():
    assert talk("deepeyes", zoom([200, 140, 100, 40]), "<answer>")[1].boxes == (Box(250, 100, 500, 350),)
    assert talk("deepeyes", zoom([200, 140, 100, 40]), setting=PUBLISHED)[1].counts["tool_errors"] == 1
    said, _ = talk("deepeyes", zoom([0, 0, 50, 50], "crop"), "B")
    assert words(said[1]) == "Error: there is no tool 'crop'; there is image_zoom_in_tool"


def test_deepeyes_goes_by_its_own_limits():
    small, large = replace(EXAMPLE, images=(Photo(20, 20),)), replace(EXAMPLE, images=(Photo(7000, 4000),))
    said, _ = talk("deepeyes", zoom([0, 0, 5, 5]), "", setting=FREE, example=small)
    assert [view.size for say in said for view in views(say)] == [(56, 56), (56, 56)]
    [view] = views(talk("deepeyes", "", setting=FREE, example=large)[0][0])
    assert 0.99 * 16384 * 784 < view.size[0] * view.size[1] <= 16384 * 784
    assert said[0].max_tokens == 10_240


def test_a_question_without_choices_has_no_options():
    [say], _ = talk("deepeyes", "", example=replace(EXAMPLE, choices=()))
    assert words(say) == "<image>Question: Which animal is it\n" + deepeyes.THINK_FIRST


# -- pixel-reasoner ------------------------------------------------------------------------------------------------


def crop(corners, target=1, name: str = "crop_image_normalized") -> str:
    call = json.dumps({"name": name, "arguments": {"bbox_2d": corners, "target_image": target}})
    return f"Let me look. <tool_call>\n{call}\n</tool_call>"


def test_pixel_reasoner_crops_by_shares_with_a_tenth_of_the_image_around():
    said, outcome = talk("pixel-reasoner", crop([0.25, 0.5, 0.5, 0.75]), r"It is \boxed{B}")
    assert words(said[0]) == f"<image>the benchmark's own words about q\n\n{pixel_reasoner.GUIDELINES}"
    assert words(said[0]).count("\n\n\n\nGuidelines: ") == 1
    assert said[0].system.startswith("You are a helpful assistant.\n\n# Tools\n\nYou may call one or more functions")
    tool = json.loads(said[0].system.partition("<tools>\n")[2].partition("\n</tools>")[0])
    assert tool["function"]["name"] == "crop_image_normalized"
    assert tool["function"]["parameters"]["required"] == ["bbox_2d", "target_image"]
    # 1120 x 560: 168..672 x 224..476, seen within 12,544 pixels
    [view] = views(said[1])
    assert view.box == Box(168, 224, 672, 476)
    assert words(said[1]) == f"\nHere is the cropped image (Image Size: {view.size[0]}x{view.size[1]}):<image>"
    assert (said[1].fresh, said[1].kind, said[1].keep) == (False, "tool", None)
    assert outcome == Outcome(
        r"It is \boxed{B}", (Box(280, 280, 560, 420),), (view,), {"tool_calls": 1, "tool_errors": 0}
    )  # unpadded


def test_pixel_reasoner_pixels_are_of_the_image_as_seen():
    """448 x 224 is seen of 1120 x 560; the released tool divides by the latter."""
    _, outcome = talk("pixel-reasoner", crop([112, 56, 224, 112]), "B")
    assert outcome.boxes == (Box(280, 140, 560, 280),)
    _, outcome = talk("pixel-reasoner", crop([112, 56, 224, 112]), "B", setting=PUBLISHED)
    assert outcome.boxes == (Box(112, 56, 224, 112),)


@pytest.mark.parametrize(("setting", "wide"), [(FREE, 1920), (replace(FREE, as_published=True), 835)])
def test_pixel_reasoner_as_published_crops_from_an_image_of_8000_tokens(setting, wide):
    """A quarter of 7680 x 4320, padding included; 8,000 tokens are 3339 x 1878 pixels."""
    large = replace(EXAMPLE, images=(Photo(7680, 4320),))
    said, outcome = talk("pixel-reasoner", crop([0.1, 0.1, 0.15, 0.15]), "B", example=large, setting=setting)
    [view] = views(said[1])
    assert view.box == Box(0, 0, 1920, 1080)
    assert outcome.boxes[0].xyxy == pytest.approx((768, 432, 1152, 648))
    assert view.size == AbsoluteInterface().fit((wide, round(wide * 1080 / 1920)), 5120 * 784, 256 * 784)
    assert said[0].max_tokens == 2048


def test_pixel_reasoner_a_share_of_one_is_the_border():
    _, outcome = talk("pixel-reasoner", crop([0.5, 0.5, 1.0, 1.0]), "B")
    assert outcome.boxes == (Box(560, 280, 1120, 560),)
    said, outcome = talk("pixel-reasoner", crop([0.5, 0.5, 1.0, 1.0]), "B", setting=PUBLISHED)
    assert views(said[1])[0].box == Box(0, 0, 113, 57)  # half a pixel by half a pixel, and the padding


def test_pixel_reasoner_crops_crops():
    """The second crop is a quarter of the first one, which lies at 168..672 x 224..476."""
    said, outcome = talk("pixel-reasoner", crop([0.25, 0.5, 0.5, 0.75]), crop([0.5, 0.5, 0.75, 1.0], 2), "B")
    assert outcome.boxes[1] == Box(420, 350, 546, 476)
    [view] = views(said[2])
    assert view.box.xyxy == (369, 324, 597, 476)  # 0.4..0.85 x 0.4..1: 369.6..596.4 x 324.8..476
    assert view.source is PHOTO


def test_pixel_reasoner_pixels_of_a_crop_are_of_the_crop_as_seen():
    said, _ = talk("pixel-reasoner", crop([0.25, 0.5, 0.5, 0.75]), "B")
    width, height = views(said[1])[0].size
    for setting in (SETTING, PUBLISHED):
        _, outcome = talk("pixel-reasoner", crop([0.25, 0.5, 0.5, 0.75]), crop([0, 0, width / 2, height / 2], 2), "B",
                          setting=setting)  # fmt: skip
        assert outcome.boxes[1].xyxy == pytest.approx((168, 224, 420, 350))


def test_pixel_reasoner_names_and_targets():
    for name, errors in (("crop_image", (0, 1)), ("crop_image_normalized", (0, 0)), ("select_frames", (1, 1))):
        for setting, expected in zip((SETTING, PUBLISHED), errors, strict=True):
            _, outcome = talk("pixel-reasoner", crop([0.1, 0.1, 0.5, 0.5], 1, name), "B", setting=setting)
            assert outcome.counts == {"tool_calls": 1, "tool_errors": expected}
    for target, errors in ((0, (1, 0)), (-1, (1, 1)), (2, (1, 1)), (1.5, (1, 1)), ("1", (1, 1)), (None, (1, 1))):
        for setting, expected in zip((SETTING, PUBLISHED), errors, strict=True):
            said, outcome = talk("pixel-reasoner", crop([0.1, 0.1, 0.5, 0.5], target), "B", setting=setting)
            assert outcome.counts["tool_errors"] == expected
            if expected:
                assert "Incorrect `target_image`. You can only select previous images within [1,1]" in words(said[1])


def test_pixel_reasoner_on_several_images():
    example = replace(EXAMPLE, images=(Photo(1120, 560), Photo(600, 600, 1)))
    said, outcome = talk("pixel-reasoner", crop([0.2, 0.2, 0.4, 0.4], 2), crop([0, 0, 1, 1], 3), "B", example=example)
    assert outcome.boxes == (Box(120, 120, 240, 240, 1), Box(60, 60, 300, 300, 1))
    assert [view.source for say in said[1:] for view in views(say)] == [example.images[1]] * 2


def test_pixel_reasoner_refuses_small_crops_and_sorts_corners():
    tiny = replace(EXAMPLE, images=(Photo(140, 140),))
    said, outcome = talk("pixel-reasoner", crop([0.5, 0.5, 0.5, 0.5]), "B", example=tiny)
    assert words(said[1]) == "\nExecution error:\nCropped image is too small: 28x28\n"
    assert outcome.counts == {"tool_calls": 1, "tool_errors": 1}
    said, outcome = talk("pixel-reasoner", crop([0.5, 0.5, 0.5, 0.5]), "B")
    assert outcome.boxes == (Box(448, 224, 672, 336),)  # a point, as the padding makes it
    assert talk("pixel-reasoner", crop([0.5, 0.75, 0.25, 0.5]), "B")[1].boxes == (Box(280, 280, 560, 420),)
    assert talk("pixel-reasoner", crop([0.8, 0.9, 0.1, 0.1]), "B", setting=PUBLISHED)[1].counts["tool_errors"] == 1


def test_pixel_reasoner_stops_at_four_calls_and_at_12k_tokens():
    again = crop([0.1, 0.1, 0.5, 0.5])
    for setting, text in ((SETTING, ""), (PUBLISHED, again)):
        said, outcome = talk("pixel-reasoner", *[again] * 5, setting=setting)
        assert len(said) == 5
        assert outcome.text == text
        assert outcome.counts == {"tool_calls": 4, "tool_errors": 0, "unanswered": 1}
    large = replace(EXAMPLE, images=(Photo(4000, 3000),))  # two views of 5,120 tokens leave no room for a third
    said, outcome = talk("pixel-reasoner", crop([0, 0, 0.9, 0.9]), "x" * 8000 + again, setting=FREE, example=large)
    assert outcome.counts == {"tool_calls": 1, "tool_errors": 0} | {"unanswered": 1}
    _, outcome = talk("pixel-reasoner", "x" * 48_000 + again)
    assert outcome.counts == {"tool_calls": 0, "tool_errors": 0, "unanswered": 1}
    assert said[0].max_tokens == 2048


def test_pixel_reasoner_goes_by_its_own_limits():
    small, large = replace(EXAMPLE, images=(Photo(200, 200),)), replace(EXAMPLE, images=(Photo(4000, 3000),))
    said, _ = talk("pixel-reasoner", crop([0.1, 0.1, 0.5, 0.5]), "", setting=FREE, example=small)
    full, cut = (views(say)[0].size for say in said)
    assert full[0] * full[1] == pytest.approx(512 * 784, rel=0.05)
    assert cut[0] * cut[1] == pytest.approx(256 * 784, rel=0.05)
    [view] = views(talk("pixel-reasoner", "", setting=FREE, example=large)[0][0])
    assert 0.98 * 5120 * 784 < view.size[0] * view.size[1] <= 5120 * 784


@pytest.mark.parametrize("call", [c for c in BAD_CALLS if c.endswith("</tool_call>")] + ["</tool_call>"])
def test_pixel_reasoner_ends_on_whatever_is_called(call):
    said, outcome = talk("pixel-reasoner", call, "B")
    assert words(said[1]).startswith("\nExecution error:\n") and len(words(said[1])) < 400
    assert outcome == Outcome("B", counts={"tool_calls": 1, "tool_errors": 1})
    _, outcome = talk("pixel-reasoner", *[call] * 5)
    assert outcome.counts == {"tool_calls": 4, "tool_errors": 4, "unanswered": 1}


def test_pixel_reasoner_ends_where_a_response_does_not_end_in_a_call():
    text = crop([0.1, 0.1, 0.5, 0.5]) + r" so \boxed{C}"
    [_], outcome = talk("pixel-reasoner", text)
    assert outcome == Outcome(text, counts={"tool_calls": 0, "tool_errors": 0})
