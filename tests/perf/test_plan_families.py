"""The plan of InternVL3 and LLaVA-OneVision: sizes against models built from configs, towers against the allocator."""

import json
from dataclasses import replace

import pytest
import torch
from family_kits import KITS
from peft import LoraConfig, get_peft_model
from pictures import Photo
from test_plan import TENTH
from tiny_families import build_internvl, build_llava
from transformers import (
    AutoModelForImageTextToText,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    Qwen3VLConfig,
)

from hart_lite.cli import main
from hart_lite.config.recipe import load_recipe
from hart_lite.config.sections import Lora, ModelSection
from hart_lite.models.families.internvl3 import InternVL3
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.models.families.qwen3_vl import Qwen3VL
from hart_lite.models.loading import load_policy
from hart_lite.models.lora import speed_up_adapters
from hart_lite.perf.memory_model import Cost
from hart_lite.perf.memory_plan import plan
from hart_lite.perf.model_sizes import PUBLISHED, Dimensions
from hart_lite.perf.peak_memory import peak_bytes
from hart_lite.perf.plan_report import report
from hart_lite.perf.plan_values import usable
from hart_lite.perf.vision_sizes import InternVit, Qwen3Vit, Siglip
from hart_lite.types import ImageView

INTERNVL, LLAVA = "OpenGVLab/InternVL3-8B-hf", "llava-hf/llava-onevision-qwen2-7b-ov-hf"


def config_of(dims: Dimensions) -> PreTrainedConfig:
    text = {
        "model_type": "qwen3" if dims.qk_norm else "qwen2",
        "vocab_size": dims.vocab,
        "hidden_size": dims.hidden,
        "intermediate_size": dims.intermediate,
        "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads,
        "num_key_value_heads": dims.kv_heads,
    }
    if dims.qk_norm:
        text["head_dim"] = dims.head_dim
    v = dims.vision
    vision = {"hidden_size": v.hidden, "num_hidden_layers": v.depth, "num_attention_heads": v.heads}
    vision |= {"intermediate_size": v.intermediate, "patch_size": v.patch}
    if isinstance(v, Qwen3Vit):
        vision |= {"depth": v.depth, "num_heads": v.heads, "out_hidden_size": dims.hidden}
        text["model_type"] = "qwen3_vl_text"
        return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=dims.tied)
    if isinstance(v, InternVit):
        vision |= {"image_size": [v.tile, v.tile], "patch_size": [v.patch, v.patch], "attention_bias": v.qkv_bias}
        vision |= {"use_qk_norm": v.qk_norm, "norm_type": "rms_norm" if v.rms_norm else "layer_norm"}
        return InternVLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    vision |= {"model_type": "siglip_vision_model", "image_size": v.tile, "vision_use_head": False}
    grids = [[rows * v.tile, columns * v.tile] for rows, columns in v.grids]
    return LlavaOnevisionConfig(text_config=text, vision_config=vision, image_grid_pinpoints=grids)


NEW = [name for name in PUBLISHED if not name.startswith("Qwen/Qwen2")]
FAMILY = {InternVit: InternVL3, Siglip: LlavaOneVision, Qwen3Vit: Qwen3VL}


@pytest.mark.parametrize("name", NEW)
def test_parameters_and_adapters_are_those_of_a_model_of_these_sizes(name):
    """Of as many layers as it takes to count one: those of the whole are compared with the published ones below."""
    whole = PUBLISHED[name]
    dims = replace(whole, layers=2, vision=replace(whole.vision, depth=2))
    family = FAMILY[type(dims.vision)]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config_of(dims))
    model.tie_weights()
    named = dict(model.named_parameters())
    assert dims.parameters == sum(p.numel() for p in named.values())
    assert dims.tower == sum(p.numel() for n, p in named.items() if "language_model" not in n and "lm_head" not in n)
    assert dims.linears == sum(p.numel() for n, p in named.items() if "language_model.layers" in n and p.dim() == 2)
    for parts in (["language"], ["vision"], ["projector"], ["language", "vision", "projector"]):
        targets = family.lora_targets(family, parts)
        with torch.device("meta"):
            adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
        assert dims.adapters(4, parts) == sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
        model = adapted.unload()


def test_published_sizes_add_up_to_the_published_checkpoints():
    """As the safetensors of the repositories have them, a tied head once."""
    counts = [PUBLISHED[name].parameters for name in NEW]
    assert counts == [
        *(2_127_532_032, 4_437_815_808, 8_767_123_696, 33_357_390_064, 8_528_318_464),
        *(7_944_373_760, 38_388_164_992, 8_030_807_584, 73_181_570_592),
    ]


@pytest.mark.parametrize("kit", KITS.values(), ids=KITS)
def test_sizes_come_from_a_config_alone(tmp_path, kit):
    base = kit.build(tmp_path)
    dims = Dimensions.of(str(base))
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    assert dims.parameters == sum(p.numel() for p in model.parameters())
    assert not dims.tied


def test_defaults_that_a_config_leaves_out_are_the_librarys(tmp_path):
    whole = json.loads(InternVLConfig(text_config=config_of(PUBLISHED[INTERNVL]).text_config).to_json_string(False))
    sparse = {key: whole[key] for key in ("model_type", "text_config")} | {"vision_config": {"attention_bias": True}}
    (tmp_path / "config.json").write_text(json.dumps(sparse))
    assert Dimensions.of(str(tmp_path)).vision == InternVit()
    text = whole["text_config"] | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(sparse | {"text_config": text}))
    assert Dimensions.of(str(tmp_path)).tied


# -- images --------------------------------------------------------------------------------------------------------


def test_visual_tokens_of_a_budget_by_hand():
    internvl, llava = InternVit(), Siglip()
    assert [internvl.tokens(tiles * 448**2) for tiles in (1, 2, 5, 12)] == [256, 768, 1536, 13 * 256]
    assert internvl.tokens(3 * 448**2 - 1) == 768
    assert llava.tokens(384**2) == 729 + 27 * 28
    assert llava.tokens(4 * 384**2) == 729 + 4 * 729 + 4 * 27  # one column of four tiles has the most rows
    assert llava.tokens(36 * 384**2) == 729 + 7938 + 6 * 27  # thinned out from a tenth more than nine tiles a side
    assert llava.patches_per_token(4 * 384**2) == 1 and 3 < llava.patches_per_token(36 * 384**2) < 3.1


@pytest.mark.parametrize("kind", ["internvl", "llava"])
@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 6, 9, 16])
def test_no_image_has_more_tokens_than_planned_and_some_has_nearly_as_many(tmp_path, kind, tiles):
    base = (build_internvl if kind == "internvl" else build_llava)(tmp_path)
    family = (InternVL3 if kind == "internvl" else LlavaOneVision)(str(base))
    planned = Dimensions.of(str(base)).vision.tokens(tiles * family.tile**2)
    sizes = [(w, h) for w in (40, 100, 160, 400, 1000) for h in (40, 100, 160, 400, 1000)]
    seen = [family.image_tokens(family.fit(size, tiles * family.tile**2, 1)) for size in sizes]
    assert 0.8 * planned <= max(seen) <= planned


# -- predicted against measured ------------------------------------------------------------------------------------

LANGUAGE = {"hidden": 192, "layers": 1, "heads": 4, "kv_heads": 2, "intermediate": 256, "vocab": 700}
TOWERS = {
    "InternViT": InternVit(4, 128, 512, 4, tile=112),
    "a large InternViT": InternVit(4, 128, 512, 4, tile=112, qkv_bias=False, qk_norm=True, rms_norm=True),
    "SigLIP": Siglip(4, 128, 512, 4, tile=112),
}


def tower_of(dims: Dimensions, dtype: torch.dtype, tiles: int):
    """(model, how it makes features of an image of so many tiles in a row and of its small whole, patches)."""
    kinds = {InternVit: InternVLForConditionalGeneration, Siglip: LlavaOnevisionForConditionalGeneration}
    model = kinds[type(dims.vision)]._from_config(config_of(dims), dtype=dtype, attn_implementation="sdpa")
    side = dims.vision.tile
    pixels = torch.randn(tiles + 1, 3, side, side).to(dtype)
    sizes = () if isinstance(dims.vision, InternVit) else (torch.tensor([[side, tiles * side]]),)

    def work() -> torch.Tensor:
        out = model.model.get_image_features(pixels, *sizes, return_dict=True).pooler_output
        return out.sum() if torch.is_tensor(out) else out[0].sum()

    return model, work, (tiles + 1) * (dims.vision.tile_patches + isinstance(dims.vision, InternVit))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wide", [False, True], ids=["narrow model", "wide model"])
@pytest.mark.parametrize("name", TOWERS)
def test_encoding_is_predicted_within_a_tenth(name, wide, dtype):
    dims = Dimensions(**(LANGUAGE | {"hidden": 1024 if wide else 192}), vision=TOWERS[name])
    model, work, patches = tower_of(dims, getattr(torch, dtype), 5)
    model.eval()
    cost = Cost(dims, ModelSection(dtype=dtype))
    pixels = patches * cost.compute * dims.vision.patch_values  # there before the call
    with torch.no_grad():
        work()
        measured = peak_bytes(work) + pixels
    print(f"{name} {dtype}: measured {measured / 2**20:.2f}, predicted {cost.encoding(patches) / 2**20:.2f}")
    assert cost.encoding(patches) == pytest.approx(measured, rel=TENTH)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TOWERS)
def test_what_a_tower_with_adapters_keeps_is_predicted_within_a_tenth(name, dtype):
    dims = Dimensions(**LANGUAGE, vision=TOWERS[name])
    kept = []
    for depth in (1, 3):
        vision = replace(dims.vision, depth=depth)
        deep = Dimensions(**LANGUAGE, vision=vision)
        model, work, patches = tower_of(deep, getattr(torch, dtype), 2)
        family = InternVL3 if isinstance(vision, InternVit) else LlavaOneVision
        model.requires_grad_(False)
        config = LoraConfig(r=16, target_modules=family.lora_targets(family, ["vision"]))
        speed_up_adapters(get_peft_model(model, config))
        model.train()
        work().backward()
        kept.append(peak_bytes(lambda work=work: work().backward()))
    measured = (kept[1] - kept[0]) / 2
    section = ModelSection(dtype=dtype, device="cpu", lora=Lora(r=16, parts=["vision"]))
    predicted = Cost(dims, section).tower_kept(patches) / dims.vision.depth
    print(f"{name} {dtype}: a block keeps {measured / 2**20:.2f}, predicted {predicted / 2**20:.2f}")
    assert predicted == pytest.approx(measured, rel=TENTH)


@pytest.mark.parametrize("kit", KITS.values(), ids=KITS)
def test_features_and_weights_are_predicted(tmp_path, kit):
    base = kit.build(tmp_path)
    policy = load_policy(ModelSection(base=str(base)))
    dims, section = Dimensions.of(str(base)), ModelSection(dtype="float32")
    shown = ImageView(Photo(200, 100), policy.family.fit((200, 100), 4 * policy.family.tile**2, 1))
    [features] = policy.family.features(policy.model, [shown.load()])
    assert Cost(dims, section).features(policy.family.image_tokens(shown.size)) == features.nbytes
    frozen = sum(p.nbytes for p in policy.model.parameters() if not p.requires_grad)
    assert Cost(dims, section).weights() == frozen
    assert Cost(dims, section).adapters() == sum(p.nbytes for p in policy.adapter_parameters)


# -- recipes -------------------------------------------------------------------------------------------------------

CARDS = {
    "qwen3b_lora": 16,
    "qwen32b_lora": 40,
    "qwen72b_lora": 80,
    "qwen3vl_2b": 12,
    "qwen3vl_4b": 16,
    "qwen3vl_8b": 24,
    "qwen3vl_32b": 40,
    "internvl3_8b": 24,
    "internvl35_8b": 24,
    "internvl3_38b": 48,
    "llava_onevision_7b": 24,
    "llava_onevision_72b": 80,
}


@pytest.mark.parametrize(("name", "card"), CARDS.items())
def test_a_shipped_recipe_fits_the_card_it_names_in_the_worst_case(name, card, capsys):
    recipe = load_recipe(name)
    assert recipe.model.base in PUBLISHED
    drawn = plan(recipe, PUBLISHED[recipe.model.base])
    assert drawn.peak <= usable(card)
    assert not drawn.problems
    assert main.main(["plan", name]) == 0
    assert f"\n {card} GB" in capsys.readouterr().out


LEAST = {"internvl3_8b": 448**2, "llava_onevision_7b": 384**2, "qwen3vl_8b": 32**2}


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_a_budget_without_room_for_a_tile_is_warned_about(name, least):
    recipe = load_recipe(name, [f"pixels.crop={least - 1}", "pixels.min=784"])
    dims = PUBLISHED[recipe.model.base]
    [problem] = plan(recipe, dims).problems
    assert problem.startswith(f"pixels.crop is {least - 1}, and this model is shown {least} pixels at least")
    assert report(load_recipe(name), dims)["worst"]["problems"] == []
    for row in report(load_recipe(name), dims)["cards"]:
        budgets = [v for k, v in row.get("overrides", {}).items() if k.startswith("pixels.")]
        assert all(budget >= least for budget in budgets)  # no suggestion goes below a tile


MORE = ["pixels.full=2408448", "model.lora.parts=[language,vision]", "rollout.max_boxes=8"]


@pytest.mark.parametrize("override", MORE)
@pytest.mark.parametrize("name", LEAST)
def test_more_of_anything_takes_more(name, override):
    dims = PUBLISHED[load_recipe(name).model.base]
    before, after = (plan(load_recipe(name, some), dims) for some in ([], [override]))
    assert after.peak > before.peak
