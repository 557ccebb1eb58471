"""The tokenizer of the toy base: byte-level BPE like Qwen's, but a number of up to three digits is one token."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hart_lite.config.prompts import Prompts
from hart_lite.inference.prompts import fill, locate_content, question_text
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.toy.glyphs import GLYPHS
from hart_lite.toy.model import LARGEST_NUMBER
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
TEMPLATES = (Prompts().verify, Prompts().answer_with_crops, Prompts().continue_with_crops)
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
    questions = [f"Which character is on the {c} {s}?" for c in COLOURS for s in SHAPES]
    example = Example("", (), "Which character is on the red square?", "A", tuple(GLYPHS[:5]))
    words, parts = Prompts(), {"image": (), "crops": (), "question": question_text(Prompts(), example)}
    prompts = [
        "".join(map(str, locate_content(words, example, (), Qwen25VL))),
        *("".join(map(str, fill(template, parts))) for template in TEMPLATES),
        DESCRIBE,
        "system\nYou are a helpful assistant.",
        "user\n",
        "assistant\n",
    ]
    glyphs = [f"({letter}) {glyph}\n{glyph}" for letter in "ABCDE" for glyph in GLYPHS]
    numbers = [",".join(map(str, range(start, LARGEST_NUMBER + 1, 5))) for start in range(5)] * 5
    return [*questions, *prompts * 20, *glyphs, *numbers]


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
