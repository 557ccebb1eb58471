"""What LLaVA-OneVision alone has to hold: its template, tiles and frames of boxes. The rest: test_families.py."""

from pathlib import Path

import pytest
import torch
from damage import processor_seconds
from family_kits import loaded
from pictures import photo_view
from tiny_families import LLAVA_GRIDS, LLAVA_TEMPLATE, LLAVA_TILE, StockLlava, build_llava

from hart_lite.box_formats import FORMATS
from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.models.loading import load_policy
from hart_lite.runs.run_dir import save_adapter
from hart_lite.types import Box

T = LLAVA_TILE


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def family(base) -> LlavaOneVision:
    return LlavaOneVision(str(base))


# -- chat ----------------------------------------------------------------------------------------------------------


def test_the_template_is_saved_with_the_adapter(family, tmp_path):
    """The processor's own, not the language model's that the tokenizer came with."""
    family.save_processor(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == LLAVA_TEMPLATE
    assert (tmp_path / "processor_config.json").is_file()


# -- images --------------------------------------------------------------------------------------------------------


SIZES = [(1, 1), (10, 10), (1, 10000), (10000, 1), (7680, 4320), (4320, 7680), (55, 57), (300, 1), (1, 201), (672, 672)]
SIZES += [(100, 67), (640, 427), (427, 640), (500, 499), (84, 84), (127, 43)]


@pytest.mark.parametrize("most_tiles", [2, 4, 9])
def test_image_tokens_are_those_of_the_stock_processor_and_the_model(tmp_path, most_tiles):
    """Above the most tiles the tokens are thinned out; the arithmetic has to foresee it to the token."""
    base = build_llava(tmp_path, most_tiles=most_tiles)
    policy = loaded(base)
    family = policy.family
    processor = StockLlava(family.processor, family.tokenizer, LLAVA_TEMPLATE, most_tiles)
    thinned = 0
    for seen in {family.fit(size, tiles * T * T, 1) for size in SIZES for tiles in (1, 2, 6, 16)}:
        count, image = family.image_tokens(seen), photo_view(*seen).load()
        [ids] = processor(text="<image>", images=[image])["input_ids"]
        assert count == ids.count(family.image_id)
        with torch.no_grad():
            [features] = family.features(policy.model, [image])
        assert len(features) == count
        thinned += count < 9 + seen[0] * seen[1] // 196
    assert thinned > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiles", [1, 3, 5, 16])
def test_fit_touches_a_grid_within_the_budget_and_is_fed_as_it_is(family, size, tiles):
    width, height = family.fit(size, tiles * T * T + 100, 1)
    assert width >= 1 and height >= 1
    assert width % T == 0 or height % T == 0
    grid = [-(-side // T) * T for side in (height, width)]
    assert grid in LLAVA_GRIDS and grid[0] * grid[1] <= tiles * T * T
    cut = family.collate([family.chat((photo_view(width, height),))])
    assert cut["pixel_values"].shape[1] == 1 + grid[0] * grid[1] // T**2
    assert cut["image_sizes"].tolist() == [[height, width]]
    if 0.2 < size[0] / size[1] < 5 and tiles >= 5:
        assert 0.8 < (width / height) / (size[0] / size[1]) < 1.25


def test_fit_by_hand(family):
    assert family.fit((100, 100), 16 * T * T, 1) == (3 * T, 3 * T)
    assert family.fit((30, 30), 16 * T * T, 1) == (T, T)
    assert family.fit((30, 30), 16 * T * T, 4 * T * T) == (2 * T, 2 * T)  # enlarged to the fewest pixels
    assert family.fit((1000, 500), 2 * T * T, 1) == (2 * T, T)
    assert family.fit((1000, 600), 2 * T * T, 1) == (70, T)
    assert family.image_tokens((2 * T, T)) == 9 + 3 * 7
    assert family.image_tokens((70, T)) == 9 + 3 * 7  # 5 columns would be centred in 6: none is left out


# -- boxes ---------------------------------------------------------------------------------------------------------

ONE = (100.0, 400.0, 250.0, 800.0, 0)  # [0.1, 0.2, 0.25, 0.4] of 1000 x 2000 pixels
FOUR = "[0.1, 0.2, 0.25, 0.4]"
TEXTS = {
    "as it is trained": (FOUR, [ONE]),
    "in prose": (f"The sign is at {FOUR}, 3 of 4.", [ONE]),
    "several, in order": (f"[0, 0, 1, 1] and {FOUR}", [(0.0, 0.0, 1000.0, 2000.0, 0), ONE]),
    "many decimals": ("[0.1000000000001, .2, 0.2500000000, 0.4]", [(100.0000000001, *ONE[1:])]),
    "one and points": ("[0., 0., 1., 1.0]", [(0.0, 0.0, 1000.0, 2000.0, 0)]),
    "named": (f'{{"bbox": {FOUR}}}', [ONE]),
    "image 2, of one": (f"image 2: {FOUR}", [ONE]),
    "negative": ("[-0.1, 0.2, 0.25, 0.4]", [(-100.0, *ONE[1:])]),
    "three": ("[0.1, 0.2, 0.3]", []),
    "five": ("[0.1, 0.2, 0.3, 0.4, 0.5]", []),
    "words": ("[x1, y1, x2, y2]", []),
    "cut off": ("[0.1, 0.2, 0.2", []),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("text", "boxes"), TEXTS.values(), ids=TEXTS.keys())
def test_boxes_are_read_from_text(family, text, boxes):
    assert family.boxes_from_text(text, [(42, 84)], [(1000, 2000)]) == [pytest.approx(box) for box in boxes]


def test_a_box_may_name_its_image(family):
    seen, original = [(42, 42)] * 2, [(1000, 2000), (100, 100)]
    text = f"image 2: {FOUR}, image 1: {FOUR}, {FOUR}"
    assert family.boxes_from_text(text, seen, original) == [(10.0, 20.0, 25.0, 40.0, 1), ONE, ONE]
    [box] = family.boxes_from_text(f"image 3: {FOUR}", seen, original)
    assert all(value != value for value in box[:4]) and box[4] == 0


@pytest.mark.parametrize("frame", FORMATS)
@pytest.mark.parametrize("original", [(672, 672), (4000, 3000), (1080, 1920), (300, 50)])
def test_a_box_written_and_read_comes_back_to_the_rounding_of_the_frame(base, original, frame):
    family = LlavaOneVision(str(base))
    family.use_box_format(frame)
    seen = family.fit(original, 16 * T * T, 1)
    step = {"unit": 1e-3, "unit-padded": 1e-3 * max(original), "relative-1000": 1e-3, "pixels": 1, "seen-pixels": 1}
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        (x1, x2), (y1, y2) = (sorted((torch.rand(2, generator=generator) * side).tolist()) for side in original)
        text = family.box_to_text([Box(x1, y1, x2, y2)], [seen], [original])
        assert ("." in text) == frame.startswith("unit")
        [(*back, image)] = family.boxes_from_text(text, [seen], [original])
        assert image == 0
        scale = {"unit": original, "relative-1000": original}.get(frame, (1, 1))
        scale = [a / b for a, b in zip(original, seen, strict=True)] if frame == "seen-pixels" else scale
        for ours, wanted, unit in zip(back, (x1, y1, x2, y2), [*scale, *scale], strict=True):
            assert abs(ours - wanted) <= 0.5 * step[frame] * unit + 1e-6


def test_the_frame_changes_what_the_same_text_means_and_not_the_prompt(base):
    text, meant = "[0.5, 0.25, 1, 0.75]", {}
    for frame in FORMATS:
        family = load_policy(ModelSection(base=str(base), box_format=frame)).family
        [meant[frame]] = family.boxes_from_text(text, [(84, 42)], [(1000, 500)])
        assert family.locate_words == LlavaOneVision.locate_words
    assert meant == {
        "unit": (500.0, 125.0, 1000.0, 375.0, 0),
        "unit-padded": (500.0, 0.0, 1000.0, 500.0, 0),
        "relative-1000": (0.5, 0.125, 1.0, 0.375, 0),
        "pixels": (0.5, 0.25, 1.0, 0.75, 0),
        "seen-pixels": (500 / 84, 125 / 42, 1000 / 84, 375 / 42, 0),
    }
    assert LlavaOneVision(str(base)).box_format == "unit"


HOSTILE = ["[0.1" * 20_000, "[" * 100_000, "[0." + "1" * 10**5, "image 1" * 10**4, "[1 " * 10**4]


def test_an_adapter_keeps_the_frame_it_learned(base, tmp_path):
    policy = load_policy(ModelSection(base=str(base), box_format="relative-1000"))
    save_adapter(policy, tmp_path / "adapter")
    for section in (ModelSection(base=str(base)), ModelSection(base=str(base), box_format="relative-1000")):
        assert load_policy(section, adapter=tmp_path / "adapter").family.box_format == "relative-1000"
    with pytest.raises(HartError, match=r"boxes as relative-1000, not unit; leave model\.box_format out"):
        load_policy(ModelSection(base=str(base), box_format="unit"), adapter=tmp_path / "adapter")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_read_in_bounded_time(family, text):
    with processor_seconds(1.0):
        family.boxes_from_text(text, [(42, 42)] * 2, [(1000, 2000)] * 2)


# -- whole jobs ----------------------------------------------------------------------------------------------------
