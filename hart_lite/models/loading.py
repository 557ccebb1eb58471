"""From a recipe's model section to a policy: which family, what precision, which attention, on what device."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, set_seed

from hart_lite.config.resources import TOY_BASE
from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from hart_lite.models.card import prepare_card
from hart_lite.models.families.base import Family
from hart_lite.models.families.internvl3 import InternVL3
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.models.families.qwen3_vl import Qwen3VL
from hart_lite.models.families.supported import check_config
from hart_lite.models.fingerprint import check_fingerprint
from hart_lite.models.finite import check_finite
from hart_lite.models.policy import Policy

log = logging.getLogger(__name__)

FAMILIES: dict[str, type[Family]] = {
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
    "internvl": InternVL3,
    "llava_onevision": LlavaOneVision,
}
ADAPTER_BASE = "base.json"  # beside the adapter: the fingerprint of its base, and what its boxes mean
FRAME = "box_format"
IN_PEFT = "base_model.model."  # where PEFT's names of tensors have the model
UNSLOTH_TOKENS = 32_768  # it wants to know the longest sequence; no pack is longer
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_policy(
    section: ModelSection, adapter: Path | None = None, seed: int = 0, base_has_moved: bool = False
) -> Policy:
    """The base with a fresh adapter (drawn from `seed`), or with the one saved in `adapter`. Where `base_has_moved`,
    the adapter may name another base; the fingerprint beside it says whether it is the same.

    Raises `HartError` when the base cannot be read, is of no supported family, or is not the adapter's base.
    """
    source = str(TOY_BASE) if section.base == "toy" else section.base
    family = _family(source, section)
    if adapter is not None:
        check_adapter(adapter, section.base, base_has_moved)
    device = pick_device(section.device)
    prepare_card(device)
    dtype = pick_dtype(section.dtype, device)
    attention = pick_attention(section.attention, device)
    how: dict = {"dtype": dtype, "attn_implementation": attention, "device_map": {"": str(device)}}
    if section.quant == "nf4":
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(family.unquantised),
        )
    seen = attention["vision_config"]
    log.info("base %s: quant %s, %s, vision attention %s, on %s", section.base, section.quant, dtype, seen, device)
    set_seed(seed)  # the adapter's first weights are drawn here
    with _readable(section):
        model = _load_unsloth(source, section, how) if section.backend == "unsloth" else family.load_model(**how)
    family.speed_up_vision(model, section.attention)
    if section.quant == "nf4" and device.type == "cpu":
        keep_differentiable(model)
    if adapter is not None:  # only now are the files of a Hub model sure to be here
        way_out = "put the old files back, or train on this base in a new run"
        check_fingerprint(adapter / ADAPTER_BASE, family, f"the adapter in {adapter} was trained on", way_out)
        _take_frame(adapter, family, section)
    check_finite(model, f"base {section.base!r}")
    policy = _with_adapter(family, model, section, adapter)
    policy.peft.peft_config["default"].base_model_name_or_path = section.base
    # LoRA leaves the embeddings as they are. Not told so, PEFT looks for the base's config at every saving, on the Hub
    # where it finds no folder, to see whether they were resized.
    policy.peft.save_pretrained = partial(policy.peft.save_pretrained, save_embedding_layers=False)
    if section.gradient_checkpointing:  # of the vision tower, where it carries adapters; the decoder has its own
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def _load_unsloth(source: str, section: ModelSection, how: dict) -> nn.Module:
    """The base as unsloth patches it. Adapters, packs and caches stay ours, so attention goes back to our function."""
    from unsloth import FastVisionModel

    model, _ = FastVisionModel.from_pretrained(
        source,
        revision=section.revision,
        max_seq_length=UNSLOTH_TOKENS,
        dtype=how["dtype"],
        load_in_4bit=section.quant == "nf4",
        use_gradient_checkpointing=False,  # switched on below, as for every base
        fast_inference=False,
    )
    model.set_attn_implementation(how["attn_implementation"])
    return model


@contextmanager
def _readable(section: ModelSection) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: tensors of other shapes
        raise HartError(
            f"base {section.base!r} cannot be read: {error}\nGive `toy`, a Hub id such as "
            f"Qwen/Qwen2.5-VL-7B-Instruct, or a folder with config.json, tokenizer and safetensors (model.base)"
        ) from error


def _family(source: str, section: ModelSection) -> Family:
    with _readable(section):
        config, _ = PreTrainedConfig.get_config_dict(source, revision=section.revision)
        family = FAMILIES[check_config(config, section.base)](source, section.revision)
    if section.box_format is not None:
        family.use_box_format(section.box_format)
    return family


def keep_differentiable(model: nn.Module) -> None:
    """In eval mode bitsandbytes repacks 4-bit weights for a CPU kernel that has no gradient, and they stay so."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _with_adapter(family: Family, model: nn.Module, section: ModelSection, adapter: Path | None) -> Policy:
    if adapter is None:
        return Policy(family, model, section.lora, None, section.gradient_checkpointing)
    targets = family.lora_targets(section.lora.parts)
    wanted = {name for name, _ in model.named_modules() if re.fullmatch(targets, name)}
    try:
        policy = Policy(family, model, section.lora, str(adapter), section.gradient_checkpointing)
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
            stored = set(file.keys())
    except (OSError, ValueError, SafetensorError) as error:
        raise HartError(f"the adapter in {adapter} cannot be read: {error}") from error
    expected = set(get_peft_model_state_dict(policy.peft, save_embedding_layers=False))
    if stored != expected:  # PEFT would go on with whatever fits
        raise HartError(
            f"the adapter in {adapter} does not fit base {section.base!r}: {len(stored - expected)} of its "
            f"{len(stored)} tensors have no place there, {len(expected - stored)} of {len(expected)} are missing"
        )
    if section.adapter:
        _check_lora(adapter, section, {key.removeprefix(IN_PEFT).rpartition(".lora_")[0] for key in stored} ^ wanted)
    check_finite(policy.model, f"the adapter in {adapter}", trained=True)
    return policy


def _check_lora(adapter: Path, section: ModelSection, differing: set[str]) -> None:
    """An adapter that training starts from is what the recipe says. `differing`: modules that carry an adapter in one
    of the two alone."""
    config, lora = read_adapter_config(adapter), section.lora
    pairs = {"r": ("r", lora.r), "alpha": ("lora_alpha", lora.alpha), "dropout": ("lora_dropout", lora.dropout)}
    problems = [
        f"its {key} is {config.get(theirs)}, and model.lora.{key} = {ours:g}: set model.lora.{key}={config.get(theirs)}"
        for key, (theirs, ours) in pairs.items()
        if config.get(theirs) != ours
    ]
    if differing:
        problems.append(
            f"it is on other modules than model.lora.parts = {section.lora.parts} names, {min(differing)} for one; "
            "name the parts that it was trained with"
        )
    if problems:
        raise HartError(f"training cannot start from the adapter in {adapter}: " + "; ".join(problems))


def check_adapter(adapter: Path, base: str, base_has_moved: bool = False) -> None:
    """Refuse an adapter that was trained on another base: its deltas would be noise there."""
    config = adapter / ADAPTER_CONFIG
    for file in (config, adapter / ADAPTER_WEIGHTS):
        if not file.is_file():
            raise HartError(f"{adapter} holds no adapter: {file.name} is missing")
    try:
        trained_on = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise HartError(f"{config} is damaged: {error}") from error
    if base_has_moved and not (adapter / ADAPTER_BASE).is_file():
        raise HartError(
            f"nothing in {adapter} says whether {base} is the base it was trained on ({ADAPTER_BASE} is missing); move "
            f"the base back to {trained_on!r}"
        )
    if trained_on != base and not base_has_moved:
        raise HartError(
            f"the adapter in {adapter} was trained on base {trained_on!r}, not {base!r}; set model.base to it"
        )


def _take_frame(adapter: Path, family: Family, section: ModelSection) -> None:
    """An adapter keeps the format of the boxes it was trained on. An earlier version wrote none down."""
    made_for = adapter / ADAPTER_BASE
    box_format = json.loads(made_for.read_text(encoding="utf-8")).get(FRAME) if made_for.is_file() else None
    if box_format in (None, family.box_format):
        return
    if section.box_format is not None:
        raise HartError(
            f"the adapter in {adapter} was trained to write boxes as {box_format}, not {section.box_format}; leave "
            "model.box_format out"
        )
    family.use_box_format(box_format)


def pick_device(asked: str) -> torch.device:
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if asked == "cuda" else asked)


def pick_dtype(asked: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the card has it (8.0 and newer), float16 on older cards, float32 on CPU."""
    if asked != "auto":
        return DTYPES[asked]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def pick_attention(asked: str, device: torch.device) -> dict[str, str]:
    """Per part. The decoder's attention is our own (`hart_lite.models.tree_attention`), so the choice is the vision
    tower's: FlashAttention-2's package, torch's kernels (`sdpa`), or what the library calls `eager`."""
    vision = asked
    if asked == "auto":
        modern = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        vision = "flash_attention_2" if modern and _flash_attn_works() else "sdpa"
    return {"text_config": "sdpa", "vision_config": vision}


def _flash_attn_works() -> bool:
    """Installed, and built for this torch: a wheel for another one cannot be imported."""
    if find_spec("flash_attn") is None:
        return False
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        log.warning("flash-attn is installed and cannot be imported, so torch's kernels are used: %s", error)
        return False
    return True
