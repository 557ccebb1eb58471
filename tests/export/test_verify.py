"""A model run from its files says what the loaded one says, and keeps none of its weights."""

import pytest
import torch
from merging import make_base
from safetensors.torch import load_file, save_file
from tiny_families import build_internvl, build_llava, build_qwen3vl
from transformers import AutoModelForImageTextToText

from hart_lite.errors import HartError
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
