"""The sizes of a model, from its config.json or from the table of published ones, and what follows from them.

Plain arithmetic: nothing is downloaded and no model is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hart_lite.config.resources import TOY_BASE
from hart_lite.errors import HartError
from hart_lite.models.families.supported import KINDS, check_config
from hart_lite.perf.vision_sizes import InternVit, Qwen3Vit, Siglip, Tower, Vision


@dataclass(frozen=True)
class Dimensions:
    """The language model's sizes, with its vision tower's."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool = False
    vision: Tower = field(default_factory=Vision)
    width: int | None = None  # of a head, where it is not its share of `hidden`
    qk_norm: bool = False  # Qwen3: norms of queries and keys where Qwen2 has biases

    @property
    def head_dim(self) -> int:
        return self.width or self.hidden // self.heads

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    # -- parameters ------------------------------------------------------------------------------------------------

    @property
    def layer_linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linears of one language layer: q, k, v, o, gate, up, down."""
        h, q, kv, wide = self.hidden, self.q_width, self.kv_width, self.intermediate
        return (h, q), (h, kv), (h, kv), (q, h), (h, wide), (h, wide), (wide, h)

    @property
    def linears(self) -> int:
        """Weights of all language layers' linears: what nf4 stores in 4 bits."""
        return self.layers * sum(a * b for a, b in self.layer_linears)

    @property
    def words(self) -> int:
        """Embedding and head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def small(self) -> int:
        """Biases and norms of the language model."""
        of_qkv = 2 * self.head_dim if self.qk_norm else self.q_width + 2 * self.kv_width
        return self.layers * (2 * self.hidden + of_qkv) + self.hidden

    @property
    def tower(self) -> int:
        """With the projector."""
        return self.vision.parameters(self.hidden)

    @property
    def parameters(self) -> int:
        return self.linears + self.words + self.small + self.tower

    def adapters(self, r: int, parts: list[str]) -> int:
        """Parameters of LoRA adapters of rank r."""
        sides = self.vision.adapter_sides(parts, self.hidden)
        if "language" in parts:
            sides += self.layers * sum(a + b for a, b in self.layer_linears)
        return r * sides

    # -- where they come from --------------------------------------------------------------------------------------

    @classmethod
    def of(cls, base: str, revision: str | None = None) -> Dimensions:
        """Of `toy`, a folder with config.json, a published model, or a Hub id whose config is cached.

        Raises `HartError` when they are known nowhere on this machine, or are of no family.
        """
        if base in PUBLISHED:
            return PUBLISHED[base]
        file = _config_file(base, revision)
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            return cls._read(config, check_config(config, base))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise HartError(f"{file} is no config of a supported base ({', '.join(KINDS)}): {error!r}") from error

    @classmethod
    def _read(cls, config: dict, kind: str) -> Dimensions:
        text = config.get("text_config", config)  # older files of Qwen2.5-VL keep the text's outside
        qwen3 = kind == "qwen3_vl" or text.get("model_type") == "qwen3"
        return cls(
            hidden=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            intermediate=text["intermediate_size"],
            vocab=text["vocab_size"],
            # In a wrapper the language model's own word counts: the wrapper's may be a default of the library.
            tied=(config if kind.startswith("qwen") else text).get("tie_word_embeddings", False),
            vision=TOWERS[kind](config),
            width=text.get("head_dim") or (128 if qwen3 else None),  # the library's default
            qk_norm=qwen3,
        )


TOWERS: dict[str, Callable[[dict], Tower]] = {
    "qwen2_5_vl": lambda config: Vision.read(config["vision_config"]),
    "qwen3_vl": lambda config: Qwen3Vit.read(config["vision_config"]),
    "internvl": lambda config: InternVit.read(config["vision_config"], config.get("downsample_ratio", 0.5)),
    "llava_onevision": lambda config: Siglip.read(
        config["vision_config"], config.get("image_grid_pinpoints"), config.get("vision_aspect_ratio", "anyres_max_9")
    ),
}
_LARGE = InternVit(45, 3200, 12800, 25, qkv_bias=False, qk_norm=True, rms_norm=True)  # InternViT-6B
_SMALL = Qwen3Vit(24, 1024, 4096)  # of Qwen3-VL's two smaller models


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, **more: Any) -> Dimensions:
    """What all its sizes share: 8 key heads, heads of 128, and the vocabulary."""
    return Dimensions(hidden, layers, heads, 8, intermediate, 151936, width=128, qk_norm=True, **more)


PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": Dimensions(2048, 36, 16, 2, 11008, 151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": Dimensions(3584, 28, 28, 4, 18944, 152064),
    "Qwen/Qwen2.5-VL-32B-Instruct": Dimensions(5120, 64, 40, 8, 27648, 152064, vision=Vision(intermediate=3456)),
    "Qwen/Qwen2.5-VL-72B-Instruct": Dimensions(8192, 80, 64, 8, 29568, 152064, vision=Vision(intermediate=3456)),
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3(2048, 28, 16, 6144, tied=True, vision=_SMALL),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3(2560, 36, 32, 9728, tied=True, vision=_SMALL),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3(4096, 36, 32, 12288, vision=Qwen3Vit()),
    "Qwen/Qwen3-VL-32B-Instruct": _qwen3(5120, 64, 64, 25600, vision=Qwen3Vit()),
    "OpenGVLab/InternVL3_5-8B-HF": _qwen3(4096, 36, 32, 12288, vision=InternVit()),
    "OpenGVLab/InternVL3-8B-hf": Dimensions(3584, 28, 28, 4, 18944, 151674, vision=InternVit()),
    "OpenGVLab/InternVL3-38B-hf": Dimensions(5120, 64, 40, 8, 27648, 151674, vision=_LARGE),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": Dimensions(3584, 28, 28, 4, 18944, 152128, vision=Siglip()),
    "llava-hf/llava-onevision-qwen2-72b-ov-hf": Dimensions(8192, 80, 64, 8, 29568, 152128, vision=Siglip()),
}


def _config_file(base: str, revision: str | None) -> Path:
    folder = TOY_BASE if base == "toy" else Path(base)
    if folder.is_dir():
        return folder / "config.json"
    if base.count("/") == 1:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        with suppress(HFValidationError):  # a mistyped folder, which is no id either
            cached = try_to_load_from_cache(base, "config.json", revision=revision)
            if isinstance(cached, str):
                return Path(cached)
    raise HartError(
        f"the sizes of base {base!r} are not known here, and plan downloads nothing: put its config.json in a folder "
        f"and give that (model.base=FOLDER), or name one of toy, {', '.join(PUBLISHED)}"
    )
