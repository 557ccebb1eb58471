"""What the benchmark runs on: a Qwen2.5-VL with random weights, drawn images, questions of fixed length.

Speed and memory do not depend on what the weights are, so nothing is downloaded. Images are noise of a real photo's
size; the text of a response is a box drawn from its tokens, since a random model writes none, and is read as any other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import Qwen2_5_VLConfig

from hart_lite.data.images import ImageFile
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.toy.glyphs import GLYPHS
from hart_lite.toy.model import build_config, toy_tokenizer
from hart_lite.types import Box, Example

TOKEN = 784  # pixels of a visual token


@dataclass(frozen=True)
class Preset:
    """Sizes of the model and of the work. Tokens are visual ones."""

    name: str
    text: dict[str, int]
    vision: dict
    mrope: tuple[int, int, int]
    rope_theta: float = 10_000.0
    device: str = "cpu"
    dtype: str = "float32"
    quant: str = "none"
    gradient_checkpointing: bool = False
    full_tokens: int = 400
    crop_tokens: int = 200
    samples: int = 8
    response: int = 32  # sampled tokens of each turn
    grown_samples: tuple[int, int] = (4, 16)
    grown_full_tokens: tuple[int, int] = (400, 3900)  # with the text: prefixes of about 500 and 4000 tokens

    @property
    def image_side(self) -> int:
        """Pixels of the square original: three times what the budget shows, as the photos of MME-RealWorld, 2000 x 1500
        on average, are to 1280 tokens."""
        return round(math.sqrt(3 * self.full_tokens * TOKEN))


PRESETS = {
    "cpu": Preset(
        name="cpu",
        text={
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
        },
        # Small enough that an image token costs the tower what it does in the 7B, 0.4 of the language model's layers.
        vision={
            "depth": 3,
            "hidden_size": 160,
            "intermediate_size": 448,
            "num_heads": 4,
            "out_hidden_size": 512,
            "fullatt_block_indexes": [2],
        },
        mrope=(8, 12, 12),
    ),
    # The dimensions of Qwen2.5-VL-7B-Instruct.
    "cuda": Preset(
        name="cuda",
        text={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        vision={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        mrope=(16, 24, 24),
        rope_theta=1_000_000.0,
        device="cuda",
        dtype="bfloat16",
        quant="nf4",
        gradient_checkpointing=True,
        full_tokens=1280,
        crop_tokens=640,
        response=64,
    ),
}


def config_of(preset: Preset) -> Qwen2_5_VLConfig:
    facts = build_config(toy_tokenizer()).to_dict()
    facts["text_config"] |= preset.text
    facts["text_config"]["rope_parameters"] |= {"mrope_section": list(preset.mrope), "rope_theta": preset.rope_theta}
    facts["text_config"].pop("layer_types", None)  # as many as there were layers
    facts["vision_config"] |= preset.vision
    facts["tie_word_embeddings"] = facts["text_config"]["tie_word_embeddings"]
    return Qwen2_5_VLConfig(**facts)


class FixedLength(Qwen25VL):
    """Nothing ends a response: each turn is as long as it may be. Its text is a box drawn from its tokens, which covers
    4 % of the image on average, as those of the README's tables do.

    `seen`: (width, height) of the images as the model sees them, whose pixels the box is written in.
    """

    seen = (TOKEN, TOKEN)

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__(source, revision)
        self.end_id, self.eos_ids = self.eos_ids[0], ()

    def response_ids(self, text: str) -> tuple[int, ...]:
        """A text that is given rather than drawn has its end all the same."""
        return (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end_id)

    def text(self, ids: Sequence[int]) -> str:
        rng, (width, height) = random.Random(str(tuple(ids))), self.seen
        w, h = rng.uniform(0.1, 0.3) * width, rng.uniform(0.1, 0.3) * height
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        return self.box_to_text([Box(x, y, x + w, y + h)], [self.seen], [self.seen])


def question(preset: Preset, folder: Path, number: int, images: int = 1) -> Example:
    """A question about images of its own, which are drawn into `folder`."""
    rng = np.random.default_rng((number, images))
    files = []
    for n in range(images):
        files.append(ImageFile(folder / f"{preset.image_side}-{number}-{n}-of-{images}.png"))
        small = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(small).resize((preset.image_side,) * 2, Image.Resampling.BICUBIC).save(files[-1].path)
    text = f"Which character is on the red square, and which of the others of image {number} is like it?"
    return Example(f"{number}/{images}", tuple(files), text, "A", tuple(GLYPHS[:5]))
