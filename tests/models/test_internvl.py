"""What InternVL3 alone has to hold: its checkpoints, tiles, tags and boxes. The rest: test_families.py."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from damage import processor_seconds
from family_kits import ALL_PARTS, KINDS, KITS, check_log_probs, loaded
from tiny_families import INTERNVL_TILE, build_internvl

from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.models.families.internvl3 import MAX_TILES, InternVL3
from hart_lite.models.loading import load_policy
from hart_lite.perf import vision_sizes
from hart_lite.types import Box

T = INTERNVL_TILE


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build_internvl(tmp_path_factory.mktemp("internvl"))


@pytest.fixture(scope="module")
def family(base) -> InternVL3:
    return InternVL3(str(base))


# -- the model -----------------------------------------------------------------------------------------------------


def test_a_large_tower_with_normalised_queries_works_the_same(tmp_path):
    """As InternViT-6B of the 38B has it."""
    folder = build_internvl(tmp_path, use_qk_norm=True, norm_type="rms_norm", attention_bias=False)
    check_log_probs(loaded(folder, lora=ALL_PARTS), KITS["internvl"], KINDS["first turns"], 4096)


def test_a_head_of_its_own_is_kept_although_the_config_forgot_to_say_so(base, tmp_path):
    """Checkpoints written before the config had `tie_word_embeddings` get its default, which is to tie."""
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    models = [InternVL3(str(folder)).load_model(dtype=torch.float32) for folder in (base, tmp_path)]
    assert torch.equal(models[0].lm_head.weight, models[1].lm_head.weight)
    assert not torch.equal(models[1].lm_head.weight, models[1].model.language_model.embed_tokens.weight)


@pytest.mark.parametrize("token", ["<IMG_CONTEXT>", "</img>", "<|im_end|>"])
def test_a_tokenizer_without_a_token_it_needs_is_refused(base, tmp_path, token):
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "base" / "tokenizer.json"
    file.write_text(file.read_text().replace(json.dumps(token), '"<other>"'))
    config = tmp_path / "base" / "tokenizer_config.json"
    config.write_text(config.read_text().replace(json.dumps(token), '"<other>"'))
    with pytest.raises(HartError, match=r"no InternVL3 tokenizer: it has no " + re.escape(token)):
        load_policy(ModelSection(base=str(tmp_path / "base")))


def test_a_config_of_another_tokenizer_is_refused(base, tmp_path):
    """The model's own forward would look for images at another token."""
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"image_token_id": 3}))
    with pytest.raises(HartError, match=r"<IMG_CONTEXT> is token \d+ of its tokenizer and 3 in its config"):
        load_policy(ModelSection(base=str(tmp_path / "base")))


def test_the_repositories_with_code_of_their_own_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "internvl_chat", "auto_map": {"AutoConfig": "x.Y"}}')
    with pytest.raises(HartError, match=r"is of type 'internvl_chat'; supported: .*whose names end in -hf"):
        load_policy(ModelSection(base=str(tmp_path)))


@pytest.mark.parametrize("frame", ["unit", "relative-1000"])
def test_its_box_frame_is_known_and_cannot_be_set(base, frame):
    with pytest.raises(HartError, match=r"box_format = '" + frame + "'.*InternVL3 are known to be relative-1000"):
        load_policy(ModelSection(base=str(base), box_format=frame))


# -- chat ----------------------------------------------------------------------------------------------------------


def test_the_tags_of_a_box_survive_sampling(family):
    """They are special tokens, which decoding would leave out."""
    text = "<ref>the sign</ref><box>[[1, 2, 30, 40]]</box>"
    ids = family.response_ids(text)
    assert len(set(family.tokenizer.convert_tokens_to_ids(["<box>", "</box>", "<ref>", "</ref>"])) & set(ids)) == 4
    assert family.text(ids) == text
    assert family.text([family.image_id, *ids, family.pad_id]) == text
    assert isinstance(family.text(range(520)), str)


# -- images --------------------------------------------------------------------------------------------------------


SIZES = [(1, 1), (10, 10), (1, 10000), (10000, 1), (7680, 4320), (4320, 7680), (55, 57), (300, 1), (1, 201), (672, 672)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiles", [1, 3, 5, 12])
def test_fit_chooses_the_stock_grid_within_the_budget(family, size, tiles):
    width, height = family.fit(size, tiles * T * T + 100, 1)
    assert width % T == height % T == 0 and width * height <= tiles * T * T
    count = family.processor.get_number_of_image_patches(
        size[1], size[0], {"crop_to_patches": True, "max_patches": tiles, "patch_size": {"height": T, "width": T}}
    )
    assert family.image_tokens((width, height)) == 4 * count


def test_fit_by_hand(family):
    assert family.fit((150, 50), 12 * T * T, 1) == (3 * T, T)
    assert family.fit((300, 100), 12 * T * T, 1) == (6 * T, 2 * T)  # large enough for half of its pixels to be its own
    assert family.image_tokens((3 * T, T)) == 4 * 4  # three tiles and the thumbnail
    assert family.image_tokens((T, T)) == 4
    assert family.fit((100, 300), 2 * T * T, 1) == (T, 2 * T)
    assert family.fit((20, 20), 12 * T * T, 1) == (T, T)
    assert family.fit((20, 20), 12 * T * T, 3 * T * T + 1) == (2 * T, 2 * T)  # enlarged to the fewest pixels
    assert family.fit((20, 20), 2 * T * T, 10 * T * T)[0] <= 2 * T


def test_without_a_limit_it_is_shown_as_many_tiles_as_its_makers_show_it(family):
    with processor_seconds(0.5):
        width, height = family.fit((7000, 7000), 10**9, 1)
    assert (width // T, height // T) == (6, 6)
    assert (MAX_TILES, vision_sizes.MAX_TILES) == (40, 40)


# -- boxes ---------------------------------------------------------------------------------------------------------

ONE = (10.0, 40.0, 300.0, 800.0, 0)  # [10, 20, 300, 400] of 1000 x 2000 pixels
FOUR = "[10, 20, 300, 400]"
NAN = "nan"
TEXTS = {
    "as it is trained": (f"<ref>the sign</ref><box>[{FOUR}]</box>", [ONE]),
    "in prose": (f"The sign <ref>STOP</ref><box>[{FOUR}]</box> is red, 3 of 4.", [ONE]),
    "several in one": (f"<box>[{FOUR}, [1, 2, 3, 4]]</box>", [ONE, (1.0, 4.0, 3.0, 8.0, 0)]),
    "several": (f"<ref>a</ref><box>[{FOUR}]</box><ref>b</ref><box>[[1,2,3,4]]</box>", [ONE, (1.0, 4.0, 3.0, 8.0, 0)]),
    "one bracket": (f"<box>{FOUR}</box>", [ONE]),
    "cut off after a box": (f"<box>[{FOUR}", [ONE]),
    "cut off in a box": ("<box>[[10, 20, 300", []),
    "without tags": (f"It is at {FOUR}.", [ONE]),
    "tags hide bare lists": (f"[5, 6, 7, 8] <box>[{FOUR}]</box> [5, 6, 7, 8]", [ONE]),
    "other image, of one": (f"<ref>image 2 of the poster</ref><box>[{FOUR}]</box>", [ONE]),
    "nothing": ("", []),
    "an empty box": ("<box></box>", []),
}


@pytest.mark.parametrize(("text", "boxes"), TEXTS.values(), ids=TEXTS.keys())
def test_boxes_are_read_from_text(family, text, boxes):
    assert family.boxes_from_text(text, [(168, 112)], [(1000, 2000)]) == boxes


def test_what_is_no_number_is_a_box_to_be_refused(family):
    [box] = family.boxes_from_text("<box>[[nan, ?, x, n]]</box>", [(56, 56)], [(1000, 2000)])
    assert all(value != value for value in box[:4])


def test_a_box_may_name_its_image(family):
    seen, original = [(56, 56)] * 2, [(1000, 2000), (100, 100)]
    text = f"<ref>image 2</ref><box>[{FOUR}]</box><ref>Image-1: sign</ref><box>[{FOUR}]</box><box>[{FOUR}]</box>"
    assert family.boxes_from_text(text, seen, original) == [(1.0, 2.0, 30.0, 40.0, 1), ONE, ONE]
    [box] = family.boxes_from_text(f"<ref>image 3</ref><box>[{FOUR}]</box>", seen, original)
    assert all(value != value for value in box[:4]) and box[4] == 0


@pytest.mark.parametrize("original", [(672, 672), (4000, 3000), (1080, 1920), (300, 50)])
def test_a_box_written_and_read_comes_back_to_the_rounding_of_the_frame(family, original):
    seen = family.fit(original, 12 * T * T, 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        (x1, x2), (y1, y2) = (sorted((torch.rand(2, generator=generator) * side).tolist()) for side in original)
        text = family.box_to_text([Box(x1, y1, x2, y2)], [seen], [original])
        assert text.startswith("<ref>area</ref><box>[[") and text.endswith("]]</box>") and "." not in text
        [(*back, image)] = family.boxes_from_text(text, [seen], [original])
        assert image == 0
        for ours, wanted, side in zip(back, (x1, y1, x2, y2), original * 2, strict=True):
            assert abs(ours - wanted) <= 0.5 * side / 1000 + 1e-6


def test_several_boxes_on_several_images_come_back(family):
    seen, original = [(56, 56)] * 2, [(1000, 2000), (100, 100)]
    boxes = [Box(10, 40, 300, 800, 0), Box(1, 2, 3, 4, 0), Box(1, 2, 30, 40, 1)]
    text = family.box_to_text(boxes, seen, original)
    one, two = "[[10, 20, 300, 400], [1, 1, 3, 2]]", "[[10, 20, 300, 400]]"
    assert text == f"<ref>image 1</ref><box>{one}</box><ref>image 2</ref><box>{two}</box>"
    assert [Box(*box) for box in family.boxes_from_text(text, seen, original)] == boxes


@pytest.mark.parametrize("text", ["<box>" * 20_000, "<box>[[1,1,1,1" * 8_000, "[" * 100_000, "<box>[" + "1" * 10**5])
def test_hostile_text_is_read_in_bounded_time(family, text):
    with processor_seconds(1.0):
        family.boxes_from_text(text, [(56, 56)], [(1000, 2000)])


# -- whole jobs ----------------------------------------------------------------------------------------------------
