"""The sizes of a Qwen2.5-VL, from its config.json or from the table of published ones, and what follows from them.

Plain arithmetic: nothing is downloaded and no model is built.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hart_lite.types import HartError

EMBEDDED = Path(__file__).parent / "world" / "base_model"
CHANNELS, FRAMES = 3, 2  # a patch of the vision tower is FRAMES x patch x patch pixels of CHANNELS colours


@dataclass(frozen=True)
class Vision:
    """The vision tower: `merge` x `merge` patches of `patch` x `patch` pixels become one visual token."""

    depth: int = 32
    hidden: int = 1280
    intermediate: int = 3420
    heads: int = 16
    patch: int = 14
    merge: int = 2

    @property
    def patches(self) -> int:
        """For each visual token."""
        return self.merge**2

    @property
    def patch_values(self) -> int:
        return CHANNELS * FRAMES * self.patch**2


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
    vision: Vision = Vision()

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def pixels_per_token(self) -> int:
        return (self.vision.patch * self.vision.merge) ** 2

    # -- parameters ------------------------------------------------------------------------------------------------

    @property
    def layer_linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linears of one language layer: q, k, v, o, gate, up, down."""
        h, kv, wide = self.hidden, self.kv_width, self.intermediate
        return (h, h), (h, kv), (h, kv), (h, h), (h, wide), (h, wide), (wide, h)

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
        return self.layers * (3 * self.hidden + 2 * self.kv_width) + self.hidden

    @property
    def tower(self) -> int:
        v = self.vision
        merged = v.hidden * v.patches
        block = 4 * v.hidden**2 + 3 * v.hidden * v.intermediate + 7 * v.hidden + 2 * v.intermediate
        merger = v.hidden + merged**2 + merged + merged * self.hidden + self.hidden
        return v.patch_values * v.hidden + v.depth * block + merger

    @property
    def parameters(self) -> int:
        return self.linears + self.words + self.small + self.tower

    def adapters(self, r: int, parts: list[str]) -> int:
        """Parameters of LoRA adapters of rank r."""
        v, sides = self.vision, 0
        merged = v.hidden * v.patches
        if "language" in parts:
            sides += self.layers * sum(a + b for a, b in self.layer_linears)
        if "vision" in parts:
            sides += v.depth * (6 * v.hidden + 3 * (v.hidden + v.intermediate))
        if "projector" in parts:
            sides += 3 * merged + self.hidden
        return r * sides

    # -- where they come from --------------------------------------------------------------------------------------

    @classmethod
    def of(cls, base: str, revision: str | None = None) -> Dimensions:
        """Of `embedded`, a folder with config.json, a published Qwen2.5-VL, or a Hub id whose config is cached.

        Raises `HartError` when they are known nowhere on this machine, or are no Qwen2.5-VL's.
        """
        if base in PUBLISHED:
            return PUBLISHED[base]
        file = _config_file(base, revision)
        try:
            return cls._read(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, KeyError, OSError) as error:
            raise HartError(f"{file} is no config of a Qwen2.5-VL: {error!r}") from error

    @classmethod
    def _read(cls, config: dict) -> Dimensions:
        if config["model_type"] != "qwen2_5_vl":
            raise ValueError(f"model_type is {config['model_type']!r}, supported is 'qwen2_5_vl'")
        text, vision = config.get("text_config", config), config["vision_config"]  # older files keep the text's outside
        return cls(
            hidden=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            intermediate=text["intermediate_size"],
            vocab=text["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            vision=Vision(
                depth=vision.get("depth", 32),
                hidden=vision["hidden_size"],
                intermediate=vision.get("intermediate_size", 3420),
                heads=vision.get("num_heads", 16),
                patch=vision.get("patch_size", 14),
                merge=vision.get("spatial_merge_size", 2),
            ),
        )


PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": Dimensions(2048, 36, 16, 2, 11008, 151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": Dimensions(3584, 28, 28, 4, 18944, 152064),
    "Qwen/Qwen2.5-VL-32B-Instruct": Dimensions(5120, 64, 40, 8, 27648, 152064, vision=Vision(intermediate=3456)),
    "Qwen/Qwen2.5-VL-72B-Instruct": Dimensions(8192, 80, 64, 8, 29568, 152064, vision=Vision(intermediate=3456)),
}


def _config_file(base: str, revision: str | None) -> Path:
    folder = EMBEDDED if base == "embedded" else Path(base)
    if folder.is_dir():
        return folder / "config.json"
    if base.count("/") == 1:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    raise HartError(
        f"the sizes of base {base!r} are not known here, and plan downloads nothing: put its config.json in a folder "
        f"and give that (model.base=FOLDER), or name one of embedded, {', '.join(PUBLISHED)}"
    )
