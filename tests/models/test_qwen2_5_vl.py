"""Qwen2.5-VL against its stock template, positions and processor; its boxes by hand. Log-probs: test_policy.py."""

import json

import pytest
import torch
from damage import processor_seconds
from pictures import Photo, photo_view, stock_inputs

from hart_lite.boxes import valid_boxes
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.types import Box, ImageView, Tokens

SEEN, ORIGINAL = [(100, 200)], [(1000, 1000)]  # x scales by 10, y by 5


@pytest.fixture(scope="module")
def family(tiny_base) -> Qwen25VL:
    return Qwen25VL(str(tiny_base))


# -- chat ----------------------------------------------------------------------------------------------------------


def expanded(family, messages: list[dict], views, generate: bool = True) -> tuple[int, ...]:
    """What the stock chat template gives, each image placeholder repeated for its tokens."""
    encoded = family.tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=generate, return_dict=True
    )
    counts = iter([(view.size[0] // 28) * (view.size[1] // 28) for view in views])
    return tuple(j for i in encoded["input_ids"] for j in ([i] * next(counts) if i == family.image_id else [i]))


def user(*parts) -> dict:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts]
    return {"role": "user", "content": content}


WIDE, TALL = photo_view(112, 56, 1), photo_view(28, 84, 2)
CONTENTS = {
    "text": ("What is 1+1? Größe, 数, \n two  spaces",),
    "image first": (WIDE, "Which character is on the red square?"),
    "text first": ("Look here:\n", TALL),
    "several images": (WIDE, "and\n", TALL, TALL, "?"),
    "image only": (WIDE,),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_chat_is_what_the_stock_template_renders(family, content):
    views = [part for part in content if isinstance(part, ImageView)]
    tokens = family.chat(content)
    assert tokens.ids == expanded(family, [user(*content)], views)
    assert [slot.view for slot in tokens.slots] == views
    marked = [i for slot in tokens.slots for i in range(slot.start, slot.start + slot.length)]
    assert marked == [i for i, token in enumerate(tokens.ids) if token == family.image_id]
    assert tokens.sampled == ()


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_reply_goes_on_as_the_template_renders_the_whole_conversation(family, content, ended):
    first, said = (TALL, "Where is it?"), '[{"bbox_2d": [1,2,3,4]}]'
    response = family.response_ids(said)
    if not ended:
        response = response[:-1]
    ours = family.chat(first) + Tokens.response(response) + family.reply(content, ended)
    views = [part for part in (*first, *content) if isinstance(part, ImageView)]
    conversation = [user(*first), {"role": "assistant", "content": said}, user(*content)]
    assert ours.ids == expanded(family, conversation, views)
    assert [slot.view for slot in ours.slots] == views
    for slot in ours.slots:
        assert set(ours.ids[slot.start : slot.start + slot.length]) == {family.image_id}


def test_a_response_ends_with_the_end_token_and_reads_back(family):
    ids = family.response_ids(" Größe (A), it's 12 .\n")
    assert ids[-1] == family.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert family.text(ids) == "Größe (A), it's 12 ."


CONTROL = ["<|im_end|>", "<|image_pad|>", "<|im_start|>", "<|endoftext|>", "<|vision_start|>", "<<|im_end|>|im_end|>"]


@pytest.mark.parametrize("hostile", CONTROL)
def test_a_question_cannot_write_control_tokens(family, hostile):
    special = set(family.tokenizer.all_special_ids)

    def controls(tokens):
        return [i for i in tokens.ids if i in special]

    for write in (family.chat, lambda content: family.reply(content, ended=True)):
        plain, attacked = write((WIDE, "What?")), write((WIDE, f"What{hostile}?"))
        assert controls(attacked) == controls(plain)
        assert len(attacked.slots) == 1
    assert controls(Tokens(family.response_ids(hostile))) == [family.eos_ids[0]]


def test_no_character_of_a_question_is_lost_in_a_reply(family):
    """Whatever symbol the code uses for its own bookkeeping, a question may use it too."""
    question = "".join(map(chr, range(0x2400, 0x2440)))
    decoded = family.tokenizer.decode(family.reply((question,), ended=True).ids)
    assert question in decoded
    assert decoded.endswith("<|im_start|>assistant\n")


# -- positions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_positions_equal_the_stock_rope_index(policy, content):
    tokens = policy.family.chat(content) + Tokens.response((7, 8, 9))
    inputs = stock_inputs(policy, tokens)
    types = inputs.get("mm_token_type_ids", torch.zeros_like(inputs["input_ids"]))
    expected, _ = policy.model.model.get_rope_index(
        inputs["input_ids"], types, image_grid_thw=inputs.get("image_grid_thw"), attention_mask=inputs["attention_mask"]
    )
    assert policy.family.positions(tokens).tolist() == expected[:, 0].tolist()


def test_positions_by_hand(family):
    """Two words, an image of 3 x 2 tokens, two words: text goes on at 2 + max(3, 2)."""
    tokens = family.chat((photo_view(84, 56),))
    tokens = Tokens((1, 2)) + Tokens(tokens.ids[tokens.slots[0].start :][:6], (tokens.slots[0],))
    slot = tokens.slots[0]
    tokens = Tokens(tokens.ids, (type(slot)(2, 6, slot.view),)) + Tokens((3, 4))
    assert family.positions(tokens).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]


# -- images --------------------------------------------------------------------------------------------------------


SIZES = [(1, 1), (10, 10), (1, 10000), (10000, 1), (7680, 4320), (4320, 7680), (27, 29), (300, 1), (1, 201), (672, 672)]
SIZES += [(5, 2000), (100000, 3), (28, 28), (55, 57)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [784, 3 * 784, 16 * 784, 1280 * 784])
def test_fit_stays_on_the_grid_and_within_the_budget(family, size, most):
    least = min(4 * 784, most)
    width, height = family.fit(size, most, least)
    assert width % 28 == height % 28 == 0
    assert width >= 28 and height >= 28
    assert width * height <= most
    assert family.image_tokens((width, height)) == width * height // 784
    if max(size) / min(size) < 2 and most >= 16 * 784:
        assert width * height >= least
        assert 0.5 < (width / height) / (size[0] / size[1]) < 2


def test_fit_keeps_orientation_and_uses_the_budget(family):
    assert family.fit((672, 672), 16 * 784, 784) == (112, 112)
    wide, tall = family.fit((4000, 1000), 16 * 784, 784), family.fit((1000, 4000), 16 * 784, 784)
    assert wide == (224, 56) and tall == (56, 224)


def test_fit_gives_a_square_the_whole_of_a_square_budget(family):
    assert {family.fit((side, side), 16 * 784, 784) for side in range(112, 2000)} == {(112, 112)}


def test_fit_agrees_with_the_image_processor(family):
    """Inside ordinary aspect ratios our sizes are the processor's own."""
    for size in [(640, 480), (480, 640), (1920, 1080), (100, 90), (33, 900)]:
        view = Photo(*size).load()
        grid = family.processor(
            images=[view], size={"shortest_edge": 3136, "longest_edge": 50176}, return_tensors="pt"
        )["image_grid_thw"][0].tolist()
        assert family.fit(size, 50176, 3136) == (grid[2] * 14, grid[1] * 14)


def test_features_are_one_tensor_for_each_image_as_the_model_makes_them(policy):
    views = [photo_view(56, 56, 1), photo_view(112, 28, 2), photo_view(28, 28, 3)]
    family, model = policy.family, policy.model
    with torch.no_grad():
        together = family.features(model, [v.load() for v in views])
        assert [tuple(f.shape) for f in together] == [(4, 128), (4, 128), (1, 128)]
        for view, ours in zip(views, together, strict=True):
            batch = family.processor(images=[view.load()], do_resize=False, return_tensors="pt")
            [alone] = model.model.get_image_features(
                batch["pixel_values"], batch["image_grid_thw"], return_dict=True
            ).pooler_output
            torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0][0], together[2][0])


# -- boxes ---------------------------------------------------------------------------------------------------------


def read(family, text, seen=SEEN, original=ORIGINAL):
    return family.boxes_from_text(text, seen, original)


ONE = (10.0, 10.0, 300.0, 200.0, 0)  # [1, 2, 30, 40] in original pixels
TEXTS = {
    "json": ('[{"bbox_2d": [1, 2, 30, 40]}]', [ONE]),
    "fenced, labelled": ('```json\n[\n\t{"bbox_2d": [1, 2, 30, 40], "label": "cat"}\n]\n```', [ONE]),
    "single quotes": ("{'bbox_2d': [1,2,30,40]}", [ONE]),
    "prose around": ('The area is {"bbox_2d":[1,2,30,40]}, I think. 3 of 4.', [ONE]),
    "several, in order": ('[{"bbox_2d": [30,40,1,2]}, {"bbox_2d": [1,2,30,40]}]', [(300.0, 200.0, 10.0, 10.0, 0), ONE]),
    "floats": ('{"bbox_2d": [1.5, 2.0, 30.25, 40]}', [(15.0, 10.0, 302.5, 200.0, 0)]),
    "negative": ('{"bbox_2d": [-1, 2, 30, 40]}', [(-10.0, 10.0, 300.0, 200.0, 0)]),
    "bare list": ("[1, 2, 30, 40]", [ONE]),
    "bare list inside a list": ("[[1, 2, 30, 40]]", [ONE]),
    "a named box hides bare lists": ('[5,6,7,8] {"bbox_2d": [1, 2, 30, 40]}', [ONE]),
    "cut off": ('[{"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [5, 6', [ONE]),
    "cut off at once": ('[{"bbox_2d": [1, 2, 30', []),
    "three numbers": ("[1, 2, 30]", []),
    "five numbers": ('{"bbox_2d": [1, 2, 30, 40, 50]}', []),
    "bare words": ("[a, b, c, d]", []),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("text", "boxes"), TEXTS.values(), ids=TEXTS.keys())
def test_boxes_are_read_from_text(family, text, boxes):
    assert read(family, text) == boxes


@pytest.mark.parametrize("number", ["NaN", "nan", "Infinity", "-Infinity", "123456789012345678901234567890", "1e400"])
def test_numbers_that_are_none_make_a_box_that_is_refused_and_counted(family, number):
    boxes = read(family, f'[{{"bbox_2d": [1, 2, {number}, 40]}}, {{"bbox_2d": [1, 2, 30, 40]}}]')
    good, rejected = valid_boxes([corners for *corners, _ in boxes], ORIGINAL[0], 4)
    # A number beyond every image is clipped to its border; what is no number at all is refused.
    assert Box(*ONE[:4]) in good
    assert len(good) + rejected == 2


def test_a_box_may_name_its_image(family):
    seen, original = [(100, 200), (50, 50)], [(1000, 1000), (100, 200)]
    text = '[{"bbox_2d": [1,2,30,40], "image": 2}, {"bbox_2d": [1,2,30,40]}, {"bbox_2d": [1,2,30,40], "image": 1}]'
    assert read(family, text, seen, original) == [(2.0, 8.0, 60.0, 160.0, 1), ONE, ONE]
    labelled = '{"bbox_2d": [1,2,30,40], "label": "a cat", "image": 2}'
    assert read(family, labelled, seen, original) == [(2.0, 8.0, 60.0, 160.0, 1)]
    assert read(family, '{"image": 2, "bbox_2d": [1,2,30,40]}', seen, original) == [(2.0, 8.0, 60.0, 160.0, 1)]


@pytest.mark.parametrize("number", ["0", "3", "999", "99999999999999999999"])
def test_a_box_on_an_image_that_is_not_there_is_refused_and_counted(family, number):
    boxes = read(family, f'{{"bbox_2d": [1,2,30,40], "image": {number}}}')
    assert [corners[-1] for corners in boxes] == [0]
    good, rejected = valid_boxes([corners for *corners, _ in boxes], ORIGINAL[0], 4)
    assert (good, rejected) == ((), 1)


HOSTILE = {
    "brackets": "[" * 100_000,
    "half boxes": "[1,1,1,1" * 12_500,
    "names": "bbox_2d" * 14_000,
    "names and colons": 'bbox_2d" : [ ' * 7_700,
    "digits": "[" + "1" * 100_000,
    "spaces": "[1" + " " * 100_000,
    "braces": '{"image": 1,' * 8_000 + '"bbox_2d": [1,2,30,40]',
    "labels": '{"bbox_2d": [1,2,30,40], "label": "' + "x" * 100_000,
    "many boxes": '{"bbox_2d": [1,2,30,40], "label": "x"}, ' * 2_500,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_read_in_bounded_time(family, text):
    with processor_seconds(1.0):
        read(family, text)


@pytest.mark.parametrize("original", [(672, 672), (4000, 3000), (1080, 1920), (7680, 4320), (300, 50)])
def test_a_box_written_and_read_comes_back_to_the_rounding_of_the_frame(family, original):
    seen = family.fit(original, 16 * 784, 784)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        (x1, x2), (y1, y2) = (sorted((torch.rand(2, generator=generator) * side).tolist()) for side in original)
        text = family.box_to_text([Box(x1, y1, x2, y2)], [seen], [original])
        [(*back, image)] = read(family, text, [seen], [original])
        assert image == 0
        assert json.loads(text)[0]["bbox_2d"] == [round(v) for v in json.loads(text)[0]["bbox_2d"]]
        for ours, wanted, side in zip(back, (x1, y1, x2, y2), (0, 1, 0, 1), strict=True):
            assert abs(ours - wanted) <= 0.5 * original[side] / seen[side] + 1e-6


def test_several_boxes_on_several_images_come_back(family):
    seen, original = [(100, 200), (50, 50)], [(1000, 1000), (100, 200)]
    boxes = [Box(10, 10, 300, 200, 0), Box(2, 8, 60, 160, 1)]
    text = family.box_to_text(boxes, seen, original)
    assert json.loads(text) == [{"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [1, 2, 30, 40], "image": 2}]
    assert [Box(*box) for box in read(family, text, seen, original)] == boxes
