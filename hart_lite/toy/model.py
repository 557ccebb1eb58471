"""The tiny Qwen2.5-VL: the real classes and config fields at a width that trains on a laptop, with its own tokenizer.

`build(folder)` writes an untrained checkpoint in the Hub's format; `experiments.pretrain_toy.train` trains it.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from hart_lite.config.resources import TOY_BASE

LARGEST_NUMBER = 223  # pixels of a 224 px side, the largest view the tiny model is meant for


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """The one that is stored with the trained base; `experiments.pretrain_toy.tokenizer` makes it."""
    return PreTrainedTokenizerFast.from_pretrained(TOY_BASE)


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    ids = tokenizer.convert_tokens_to_ids
    vocab = math.ceil(len(tokenizer) / 64) * 64
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_heads": 4,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


@torch.no_grad()
def initialise(model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Standard deviation 0.2 capped by 1/sqrt(fan-in): the library's 0.02 is too small for this width.

    Words start larger and what the language layers add to them smaller, so that a word is not drowned by the first
    layers' noise. The embeddings of numbers start as sines and cosines of their value: near numbers are near. Keys
    start equal to queries: like attends to like, which is the better half of looking something up.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            parameter.normal_(0, min(0.2, fan_in**-0.5), generator=generator)
        if "language_model.layers" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.mul_(0.35)
    text = model.config.text_config
    per_key = text.num_attention_heads // text.num_key_value_heads
    for layer in model.model.language_model.layers:
        queries = layer.self_attn.q_proj.weight.view(text.num_attention_heads, -1, text.hidden_size)
        keys = layer.self_attn.k_proj.weight.view(text.num_key_value_heads, -1, text.hidden_size)
        keys.copy_(queries[::per_key])
    table = model.get_input_embeddings().weight
    table.mul_(0.25 / table.std())
    half = table.shape[1] // 2
    periods = 2.0 ** torch.linspace(2, 9, half)
    for number in range(LARGEST_NUMBER + 1):
        ids = tokenizer(str(number), add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise AssertionError(f"{number} is {len(ids)} tokens, not one")
        angle = 2 * math.pi * number / periods
        table[ids[0]] = 0.35 * torch.cat([angle.sin(), angle.cos()])


def build_processor() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 784, "longest_edge": 12544}, patch_size=14, merge_size=2, temporal_patch_size=2
    )


def build(folder: Path, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained checkpoint in `folder`: config, tokenizer, image processor, weights."""
    tokenizer = toy_tokenizer()
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer))
    initialise(model, tokenizer, seed)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    model.save_pretrained(folder)
    return model
