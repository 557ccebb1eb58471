"""What cannot be run is refused in one line, from its config alone: there are no weights here."""

import json

import pytest

from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.models.families.supported import KINDS
from hart_lite.models.loading import FAMILIES, load_policy
from hart_lite.perf.model_sizes import TOWERS, Dimensions

LINEAR = {"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]}
REFUSED = {
    "Qwen3.5": ("qwen3_5", LINEAR, "linear-attention layers"),
    "Qwen3.6-35B-A3B": ("qwen3_5_moe", LINEAR | {"num_experts": 256}, "linear-attention layers"),
    "MiniCPM-V 4.6": ("minicpmv4_6", {"full_attention_interval": 4}, "linear-attention layers"),
    "Qwen3-VL-30B-A3B": ("qwen3_vl_moe", {"num_experts": 128}, "experts lie in 3-D parameters"),
    "a MoE that hides it": ("qwen3_vl_moe", {}, "experts lie in 3-D parameters"),
    "InternVL3.5-30B-A3B": ("internvl", {"model_type": "qwen3_moe", "num_experts": 128}, "experts lie in 3-D"),
    "InternVL3.5-GPT-OSS": ("internvl", {"model_type": "gpt_oss", "num_local_experts": 32}, "experts lie in 3-D"),
    "Gemma 4": ("gemma4", {"use_bidirectional_attention": "vision"}, "is not causal"),
    "Gemma 3": ("gemma3", {"layer_types": ["sliding_attention", "full_attention"]}, "has a window"),
    "a window": ("internvl", {"model_type": "qwen2", "use_sliding_window": True}, "has a window"),
    "another": ("smolvlm", {"model_type": "llama"}, "supported: qwen2_5_vl, qwen3_vl"),
    "nonsense": ("internvl", {"layer_types": 3, "num_experts": "many"}, "experts lie in 3-D"),
}


@pytest.mark.parametrize(("kind", "text", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path, kind, text, reason):
    base = str(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "text_config": text}))
    for ask in (lambda: load_policy(ModelSection(base=base)), lambda: Dimensions.of(base)):
        with pytest.raises(HartError, match=reason) as refused:
            ask()
        assert str(refused.value).startswith(f"base '{base}' is of type '{kind}'")
        assert "\n" not in str(refused.value)


def test_a_dense_base_with_one_expert_or_none_is_none_of_these(tmp_path):
    """Configs of dense models name these keys, too."""
    text = {"model_type": "qwen2", "num_experts": 0, "use_sliding_window": False, "layer_types": ["full_attention"]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl", "text_config": text}))
    with pytest.raises(HartError, match="is no config of a supported base"):  # it has no sizes
        Dimensions.of(str(tmp_path))


def test_every_kind_has_a_family_and_a_plan():
    assert set(KINDS) == set(FAMILIES) == set(TOWERS)
