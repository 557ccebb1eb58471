"""A model run from its files says what the loaded one says, and keeps none of its weights."""

from functools import partial

import pytest
import torch
from merging import make_adapter, make_base
from safetensors.torch import load_file, save_file
from tiny_families import QWEN3_TEXT, build_internvl, build_llava, build_qwen3vl
from transformers import AutoModelForImageTextToText

from hart_lite.errors import HartError
from hart_lite.export.merge import merge
from hart_lite.export.shards import SINGLE, Checkpoint
from hart_lite.export.tensor_names import TensorNames
from hart_lite.export.verify import image_and_question, streamed
from hart_lite.models.families.internvl3 import InternVL3
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.models.families.qwen3_vl import Qwen3VL

BUILD = {Qwen25VL: make_base, Qwen3VL: build_qwen3vl, InternVL3: build_internvl, LlavaOneVision: build_llava}


def names_of(folder) -> TensorNames:
    return TensorNames.of(Checkpoint.open(folder))


@pytest.mark.parametrize("family", BUILD)
def test_it_says_what_the_loaded_model_says(family, tmp_path):
    folder = BUILD[family](tmp_path / "base")
    batch = image_and_question(family(str(folder)))
    model = streamed(names_of(folder))
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, loaded(**batch).logits)
    for parameter in model.parameters():
        assert parameter.untyped_storage().nbytes() == 4  # one number in its place
    assert not any(buffer.is_meta for buffer in model.buffers())


NEWER = {"Qwen3-VL": build_qwen3vl, "InternVL3.5": partial(build_internvl, text=QWEN3_TEXT)}


@torch.no_grad()
@pytest.mark.parametrize("build", NEWER.values(), ids=NEWER)
def test_a_base_with_qwen3_is_merged_whole_and_loads_in_plain_transformers(build, tmp_path):
    """An adapter on every linear layer, mergers of DeepStack included."""
    policy = make_adapter(build(tmp_path / "base"), tmp_path / "adapter")
    adapted = sum(name.endswith("lora_A.default") for name, _ in policy.model.named_modules())
    assert merge(tmp_path / "adapter", tmp_path / "merged").changed == adapted
    plain, loading = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    batch = image_and_question(policy.family)
    logits = [model.eval()(**batch, use_cache=False).logits for model in (plain, policy.model)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
    with policy.reference():
        assert (policy.model(**batch, use_cache=False).logits - logits[0]).abs().max() > 0.01


def test_a_weight_is_what_its_change_makes_of_it(tmp_path):
    folder = make_base(tmp_path / "base")
    batch, names = image_and_question(Qwen25VL(str(folder))), names_of(folder)
    with torch.no_grad():
        logits = streamed(names, {"model.embed_tokens.weight": torch.zeros_like})(**batch).logits  # the tied head, too
    assert not logits.any()


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path):
    folder = make_base(tmp_path / "base")
    tensors = load_file(folder / SINGLE)
    del tensors["visual.merger.mlp.0.weight"]
    save_file(tensors, folder / SINGLE, {"format": "pt"})
    with pytest.raises(HartError, match=r"lacks model\.visual\.merger\.mlp\.0\.weight"):
        streamed(names_of(folder))
