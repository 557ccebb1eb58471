"""The tiny Qwen2.5-VL: the real classes and config fields at a width that trains on a laptop, with its own tokenizer.

`build(folder)` writes an untrained checkpoint in the Hub's format; `experiments.pretrain_toy.train` trains it.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from hart_lite.inference import prompts as loops
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.toy.glyphs import GLYPHS
from hart_lite.toy.scenes import COLOURS, SHAPES
from hart_lite.types import Example

CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LARGEST_NUMBER = 223  # pixels of a 224 px side, the largest view the tiny model is meant for
DESCRIBE = "Describe the image."
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _corpus() -> list[str]:
    """Every sentence the world speaks, so that each of its words becomes one token; other text falls to bytes."""
    words = [f"Which character is on the {c} {s}?" for c in COLOURS for s in SHAPES]
    example = Example("", (), "Which character is on the red square?", "A", tuple(GLYPHS[:5]))
    prompts = [
        str(loops.locate_content(example, (), Qwen25VL)[0]),
        str(loops.verify_content(example, ())[0]),
        str(loops.with_crops_content(example, (), ())[0]),
        "".join(map(str, loops.sub_image_content(example, ()))),
        DESCRIBE,
        "system\nYou are a helpful assistant.",
        "user\n",
        "assistant\n",
    ]
    glyphs = [f"({letter}) {glyph}\n{glyph}" for letter in "ABCDE" for glyph in GLYPHS]
    numbers = [",".join(map(str, range(start, LARGEST_NUMBER + 1, 5))) for start in range(5)] * 5
    return [*words, *prompts * 20, *glyphs, *numbers]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE like Qwen's, but a number of up to three digits is one token."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\n|\s"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=1,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    # The two ends of a box as one token each: a box is six tokens of punctuation and numbers, not twenty.
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ('[{"bbox_2d": [', "]}]")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        additional_special_tokens=list(CONTROL[1:]),
    )


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
    tokenizer = build_tokenizer()
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
