"""Tiny checkpoints of Qwen3-VL, InternVL and LLaVA-OneVision: the real classes, config fields, special tokens, chat
templates and files, at a width that a test builds in a second. And their stock processors, without the video part that
wants torchvision."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from hart_lite.config.prompts import Prompts
from hart_lite.inference.prompts import fill, locate_content, question_text
from hart_lite.models.families.internvl3 import InternVL3
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.toy.scenes import COLOURS, SHAPES
from hart_lite.types import Example

TEXT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
INTERNVL = (*TEXT, "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
LLAVA = (*TEXT, "<image>", "<video>")
QWEN3 = (*TEXT, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
# As transformers' conversion scripts write them.
INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] }}{% endgeneration %}{% endfor %}{% endif %}"
    "{{'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The language model's own, which the tokenizer of a LLaVA-OneVision may still hold.
QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3_TEMPLATE = files("trl").joinpath("chat_templates/qwen3_vl.jinja").read_text(encoding="utf-8")  # the Hub's
INTERNVL_TILE, LLAVA_TILE, QWEN3_TILE = 56, 42, 32  # 4, 9 and 1 tokens
QWEN3_TEXT = {"model_type": "qwen3", "head_dim": 24}  # of InternVL3.5; no share of the hidden size
LLAVA_GRIDS = [[LLAVA_TILE * rows, LLAVA_TILE * columns] for rows in range(1, 5) for columns in range(1, 5)]


def build_tokenizer(special: tuple[str, ...], template: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the world's sentences; each digit a token, as in Qwen2."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\n|\s"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    example = Example("", (), "Which character is on the red square?", "A", tuple("AB"))
    words = Prompts()
    contents = [locate_content(words, example, (), family) for family in (InternVL3, LlavaOneVision)]
    parts = {"image": (), "crops": (), "question": question_text(words, example)}
    contents += [fill(template, parts) for template in (words.verify, words.answer_with_crops)]
    corpus = [f"Which character is on the {c} {s}?" for c in COLOURS for s in SHAPES]
    corpus += ["".join(map(str, content)) for content in contents] + ["system\nuser\nassistant\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        model_max_length=8192,
        additional_special_tokens=[token for token in special if token not in ("<|im_end|>", "<|endoftext|>")],
    )


def _text_config(vocabulary: int, tokenizer: PreTrainedTokenizerFast) -> dict:
    return {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@torch.no_grad()
def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int) -> None:
    """No weight at its start: what is zero or one in a fresh model could be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5 * parameter + 0.1 * noise)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def build_internvl(folder: Path, seed: int = 0, text: dict | None = None, **vision) -> Path:
    tokenizer = build_tokenizer((*INTERNVL, "<video>"), INTERNVL_TEMPLATE)
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 80,
        "image_size": [INTERNVL_TILE, INTERNVL_TILE],
        "patch_size": [14, 14],
        "attention_bias": True,
    } | vision
    config = InternVLConfig(
        text_config=_text_config(len(tokenizer) + 6, tokenizer) | (text or {}),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(INTERNVL_TILE // 28) ** 2,
        tie_word_embeddings=False,
    )
    _write(InternVLForConditionalGeneration(config), tokenizer, folder, seed)
    processor = GotOcr2ImageProcessorPil(
        size={"height": INTERNVL_TILE, "width": INTERNVL_TILE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(folder)
    settings = {"processor_class": "InternVLProcessor", "image_seq_length": config.image_seq_length}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def build_llava(folder: Path, seed: int = 0, most_tiles: int = 4) -> Path:
    """The tokenizer holds the language model's template; LLaVA's is in the legacy file of the processor."""
    tokenizer = build_tokenizer(LLAVA, QWEN2_TEMPLATE)
    ids = tokenizer.convert_tokens_to_ids
    config = LlavaOnevisionConfig(
        text_config=_text_config(len(tokenizer) + 6, tokenizer),
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 80,
            "image_size": LLAVA_TILE,
            "patch_size": 14,
            "vision_use_head": False,
        },
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=LLAVA_GRIDS,
        vision_aspect_ratio=f"anyres_max_{most_tiles}",
    )
    _write(LlavaOnevisionForConditionalGeneration(config), tokenizer, folder, seed)
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": LLAVA_TILE, "width": LLAVA_TILE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        image_grid_pinpoints=LLAVA_GRIDS,
    )
    processor.save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": LLAVA_TEMPLATE}))
    settings = {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": (LLAVA_TILE // 14) ** 2,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": f"anyres_max_{most_tiles}",
    }
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def build_qwen3vl(folder: Path, seed: int = 0, template: str = QWEN3_TEMPLATE, **text) -> Path:
    """One more layer than levels of DeepStack, in the language model and in the tower."""
    tokenizer = build_tokenizer(QWEN3, template)
    ids = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 3, 3], "mrope_interleaved": True}
    own = {"model_type": "qwen3_vl_text", "head_dim": 24, "num_hidden_layers": 3, "rope_parameters": rope}
    config = Qwen3VLConfig(
        text_config=_text_config(len(tokenizer) + 6, tokenizer) | own | text,
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 80,
            "out_hidden_size": 64,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    _write(Qwen3VLForConditionalGeneration(config), tokenizer, folder, seed)
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": QWEN3_TILE**2, "longest_edge": 1 << 24},
        patch_size=16,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ).save_pretrained(folder)
    return folder


class StockQwen3VL(Qwen3VLProcessor):
    """The stock processor without its video part."""

    def __init__(self, image_processor, tokenizer, chat_template=None):
        ids = tokenizer.convert_tokens_to_ids
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = ids("<|image_pad|>"), ids("<|video_pad|>")
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class StockInternVL(InternVLProcessor):
    """The stock processor without its video part."""

    def __init__(self, image_processor, tokenizer, chat_template=None):
        ids = tokenizer.convert_tokens_to_ids
        self.image_seq_length = (INTERNVL_TILE // 28) ** 2
        self.start_image_token, self.end_image_token, self.image_token = "<img>", "</img>", "<IMG_CONTEXT>"
        self.start_image_token_id, self.end_image_token_id = ids("<img>"), ids("</img>")
        self.image_token_id, self.video_token = ids("<IMG_CONTEXT>"), "<video>"
        self.multimodal_pattern = re.compile("(?P<image><IMG_CONTEXT>)|(?P<video><video>)")
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class StockLlava(LlavaOnevisionProcessor):
    """The stock processor without its video part."""

    def __init__(self, image_processor, tokenizer, chat_template=None, most_tiles=4):
        ids = tokenizer.convert_tokens_to_ids
        self.num_image_tokens, self.vision_feature_select_strategy = (LLAVA_TILE // 14) ** 2, "full"
        self.image_token, self.video_token = "<image>", "<video>"
        self.image_token_id, self.video_token_id = ids("<image>"), ids("<video>")
        self.vision_aspect_ratio = f"anyres_max_{most_tiles}"
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
