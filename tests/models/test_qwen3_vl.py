"""What Qwen3-VL alone has to hold: DeepStack, its positions, its pixels and its boxes. The rest: test_families.py."""

import json
from pathlib import Path

import pytest
import torch
from family_kits import KINDS, KITS, check_log_probs, everything, loaded, said, view
from pictures import Photo, packed_logps
from PIL import Image
from tiny_families import QWEN3_TEMPLATE, StockQwen3VL, build_qwen3vl

from hart_lite.config.sections import ModelSection
from hart_lite.data.images import ImageFile
from hart_lite.errors import HartError
from hart_lite.models import kernels
from hart_lite.models.families.qwen3_vl import Qwen3VL
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.models.views import crop_view, read_boxes
from hart_lite.perf.check_base.layers import RESIDUAL, largest_values
from hart_lite.types import Box, Example, ImageView

SIZES = [(96, 64), (32, 32), (224, 160), (64, 320)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build_qwen3vl(tmp_path_factory.mktemp("qwen3vl"))


@pytest.fixture(scope="module")
def policy(base) -> Policy:
    return loaded(base)


@pytest.fixture(scope="module")
def family(policy) -> Qwen3VL:
    return policy.family


# -- DeepStack -----------------------------------------------------------------------------------------------------


def cut(rows: torch.Tensor, level: int) -> torch.Tensor:
    """Without one level, or without all of them (0)."""
    parts = list(rows.split(64, -1))
    parts[level:] = [torch.zeros_like(parts[level]), *parts[level + 1 :]] if level else []
    return torch.cat(parts, -1) if level else rows[:, :64]


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_the_first_layers_add_is_seen(policy, monkeypatch, make, level):
    """With it log-probs are the library's to 1e-5; without it there is no error, and they are off."""
    right = check_log_probs(policy, KITS["qwen3_vl"], make, 4096)
    features = policy.family.features
    monkeypatch.setattr(policy.family, "features", lambda *asked: [cut(rows, level) for rows in features(*asked)])
    policy.forget_images()
    with torch.no_grad():
        wrong = torch.cat(packed_logps(policy, make(policy.family), 4096))
    policy.forget_images()
    assert (wrong - right).abs().max() > 0.02


def test_it_is_added_to_images_alone(policy):
    """A prompt's words get nothing, and what is sampled has no such part."""
    tokens = policy.family.chat((view(policy.family, 96, 64), "Which?"))
    [slot] = tokens.slots
    with torch.no_grad():
        inputs = policy.embed(torch.tensor(tokens.ids), tokens.slots)
        words = policy.embed(torch.tensor(tokens.ids), ())
    seen = torch.zeros(len(tokens), dtype=torch.bool)
    seen[slot.start : slot.start + slot.length] = True
    assert inputs.shape == (len(tokens), 3 * 64) and words.shape == (len(tokens), 64)
    assert torch.equal(inputs[~seen, :64], words[~seen]) and not inputs[~seen, 64:].any()
    assert inputs[seen].abs().amin(-1).min() > 0


@torch.no_grad()
def test_check_base_follows_the_hidden_states_with_it(policy):
    """What goes into the norms of the library's layers, each layer's own input counted to the one before."""
    tokens = policy.family.chat((view(policy.family, 96, 64), "Which?"))
    language = policy.model.model.language_model
    layers, hooks, seen = language.layers, [], [0.0] * len(language.layers)

    def note(n: int, given: tuple) -> None:
        seen[n] = max(seen[n], given[0].abs().max().item())

    for n, layer in enumerate(layers):
        after = layers[n + 1] if n + 1 < len(layers) else language.norm
        for module in (layer.post_attention_layernorm, after):
            hooks.append(module.register_forward_pre_hook(lambda _, given, n=n: note(n, given)))
    policy.model(**KITS["qwen3_vl"].stock_inputs(policy, tokens), use_cache=False)
    for hook in hooks:
        hook.remove()
    found = largest_values(policy, [tokens])
    assert [row[RESIDUAL] for row in found.layers] == pytest.approx(seen, rel=1e-5)


# -- the tower -----------------------------------------------------------------------------------------------------


def of_the_library(model, family, images) -> torch.Tensor:
    batch = family.processor(images=images, do_resize=False, return_tensors="pt")
    out = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"], return_dict=True)
    return torch.cat([out.pooler_output, *out.deepstack_features], -1)


def test_features_and_gradients_are_those_of_the_library(base):
    """Of the pixels' projection, which is a convolution there, through every layer and merger."""
    policy, plain = loaded(base), Qwen3VL(str(base)).load_model(dtype=torch.float32)
    images = [Photo(*size, n).load() for n, size in enumerate(SIZES)]
    out, grads = [], []
    for model in (policy.model, plain):
        proj = model.model.visual.patch_embed.proj
        weights = proj.weight.requires_grad_(), proj.bias.requires_grad_()
        if model is plain:
            rows = of_the_library(plain, policy.family, images)
        else:
            rows = torch.cat(policy.family.features(model, images))
        out.append(rows.detach())
        grads.append(torch.autograd.grad((rows * torch.linspace(-1, 1, rows.numel()).view_as(rows)).sum(), weights))
    torch.testing.assert_close(*out, rtol=0, atol=1e-5)
    for mine, theirs in zip(*grads, strict=True):
        assert theirs.norm() > 0 and (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_no_value_is_asked_of_the_device(base, monkeypatch):
    """On a device that holds no values, where asking for one is an error."""
    policy, calls = loaded(base), []
    policy.model.to("meta")

    def forward(q, k, v, call, scale):
        calls.append(call)
        return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0]), None

    monkeypatch.setattr(kernels, "forward", forward)
    features = policy.family.features(policy.model, [Photo(96, 64).load(), Photo(64, 64).load()])
    assert [tuple(f.shape) for f in features] == [(6, 192), (4, 192)] and len(calls) == 3
    assert {f.device.type for f in features} == {"meta"}


# -- the official processor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1920, 1080), (100, 90), (33, 900), (672, 672)])
def test_sizes_and_pixels_are_those_of_the_official_processor(family, size):
    """Given the original, it resizes to what `fit` says; given that, it makes the same patches."""
    official = StockQwen3VL(family.processor, family.tokenizer, QWEN3_TEMPLATE)
    budget = {"shortest_edge": 4096, "longest_edge": 65536}
    made = official(text="<|image_pad|>", images=[Photo(*size).load()], size=budget, return_tensors="pt")
    width, height = family.fit(size, 65536, 4096)
    assert made["image_grid_thw"].tolist() == [[1, height // 16, width // 16]]
    assert (made["input_ids"] == family.image_id).sum() == family.image_tokens((width, height))
    shown = Photo(width, height)
    made = official(text="<|image_pad|>", images=[shown.load()], size=budget, return_tensors="pt")
    ours = family.patches(shown.load(), torch.device("cpu"))
    torch.testing.assert_close(ours, made["pixel_values"], rtol=0, atol=1e-6)


def test_positions_are_those_of_the_library(policy):
    family = policy.family
    for tokens in (*everything(family), family.chat(("No image.",)) + said(3, 1)):
        inputs = KITS["qwen3_vl"].stock_inputs(policy, tokens)
        types = inputs.get("mm_token_type_ids", torch.zeros_like(inputs["input_ids"]))
        theirs, _ = policy.model.model.get_rope_index(
            inputs["input_ids"], types, image_grid_thw=inputs.get("image_grid_thw")
        )
        assert torch.equal(family.positions(tokens), theirs[:, 0])


def test_rotary_rows_take_turns(policy):
    """Sections of 6, 3 and 3 of 12 frequencies: time, height and width in turn, then time alone."""
    rows = policy.family.rotary_rows(policy.family.language(policy.model))
    assert rows.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0]


def test_a_thinking_checkpoint_is_refused(tmp_path):
    opening = "{{- '<|im_start|>assistant\\n' }}\n{%- endif %}"
    assert opening in QWEN3_TEMPLATE
    thinking = QWEN3_TEMPLATE.replace(opening, "{{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}")
    base = build_qwen3vl(tmp_path, template=thinking)
    with pytest.raises(HartError, match=r"is a Thinking checkpoint.*take the Instruct one"):
        load_policy(ModelSection(base=str(base)))


# -- boxes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_box_shows_its_part_of_a_large_image_turned_or_not(family, tmp_path, orientation):
    """Of 0 to 1000 of the image as it is seen upright, whatever size the model saw."""
    upright = Image.new("RGB", (3000, 4000))
    upright.paste((255, 255, 255), (300, 1000, 1500, 2000))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright
    stored.save(tmp_path / "photo.png", exif=exif, compress_level=1)
    example = Example("1", (ImageFile(tmp_path / "photo.png"),), "Which?", "A")
    full = ImageView(example.images[0], family.fit((3000, 4000), 1 << 20, 1024))
    text = '[{"bbox_2d": [100, 250, 500, 500], "label": "white"}]'
    [box], refused = read_boxes(example, [full], text, family, 4, 1.0)
    assert (box, refused) == (Box(300, 1000, 1500, 2000), 0)
    crop = crop_view(example, box, family, 0.0, 1 << 30, 1).load()
    assert crop.getextrema() == ((255, 255),) * 3
    assert family.box_to_text([box], [full.size], [(3000, 4000)]) == '[{"bbox_2d": [100,250,500,500]}]'
    assert crop_view(example, box, family, 0.01, 1 << 30, 1).load().getextrema()[0][0] == 0


@pytest.mark.parametrize("original", [(672, 672), (4000, 3000), (1080, 1920), (20_000, 300)])
def test_a_box_written_and_read_comes_back_to_a_thousandth(family, original):
    seen = family.fit(original, 1 << 18, 1024)
    generator = torch.Generator().manual_seed(0)
    for image in (0, 1):
        (x1, x2), (y1, y2) = (sorted((torch.rand(2, generator=generator) * side).tolist()) for side in original)
        text = family.box_to_text([Box(x1, y1, x2, y2, image)], [seen] * 2, [original] * 2)
        assert max(json.loads(text)[0]["bbox_2d"]) <= 1000
        [(*back, found)] = family.boxes_from_text(text, [seen] * 2, [original] * 2)
        assert found == image
        for ours, wanted, side in zip(back, (x1, y1, x2, y2), original * 2, strict=True):
            assert abs(ours - wanted) <= 0.5 * side / 1000 + 1e-6


def test_another_box_format_is_refused(base):
    with pytest.raises(HartError, match="the boxes of Qwen3-VL are known to be relative-1000"):
        load_policy(ModelSection(base=str(base), box_format="seen-pixels"))


def test_fit_keeps_sides_of_32_pixels_within_the_budget(family):
    for size in ((1, 1), (1, 10_000), (7680, 4320), (27, 29), (100_000, 3), (672, 672)):
        for most in (1024, 3 * 1024, 1280 * 1024):
            width, height = family.fit(size, most, min(4 * 1024, most))
            assert width % 32 == height % 32 == 0 and 1024 <= width * height <= most
    assert family.fit((3000, 1500), 8 * 1024, 1024) == (128, 64)
