"""Which bases can be run, told by config.json alone: before weights are loaded, and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hart_lite.errors import ModelError
from hart_lite.utils.text import shown

KINDS = ("qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision")  # `model_type`
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def check_config(config: Mapping[str, Any], base: str) -> str:
    """The `model_type` of a config that can be run. Raises `ModelError` with the reason in one line where it cannot."""
    kind = config.get("model_type")
    text = config.get("text_config")
    if reason := _reason(str(kind), text if isinstance(text, Mapping) else config):
        raise ModelError(
            f"base {shown(base)} is of type {shown(kind)}, and {reason}. Supported are {', '.join(KINDS)}, where they "
            "are dense and every layer attends causally to all that stands before"
        )
    if kind not in KINDS:
        raise ModelError(
            f"base {shown(base)} is of type {shown(kind)}; supported: {', '.join(KINDS)}. Of InternVL and "
            "LLaVA-OneVision the transformers-native repositories are meant, whose names end in -hf"
        )
    return kind


def _reason(kind: str, text: Mapping[str, Any]) -> str | None:
    layers = text.get("layer_types")
    layers = set(map(str, layers)) if isinstance(layers, list) else set()
    if "linear_attention" in layers or text.get("full_attention_interval"):
        return "its linear-attention layers would carry what one sample says into the next, where they share a prefix"
    if "_moe" in f"{kind} {text.get('model_type')}" or any(text.get(key) not in (None, 0, 1) for key in _EXPERTS):
        return "its experts lie in 3-D parameters, which neither 4-bit quantisation nor adapters reach"
    if text.get("use_bidirectional_attention"):
        return "its attention is not causal, and a token of a pack must see nothing of what comes after it"
    if layers - {"full_attention"} or text.get("use_sliding_window"):
        return "its attention has a window, and a shared prefix is attended to whole"
    return None
