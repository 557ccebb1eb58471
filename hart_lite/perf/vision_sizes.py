"""The sizes of vision towers with their projectors: parameters, adapters, and tokens of an image within a budget.

Plain arithmetic, as `hart_lite.perf.model_sizes`. `out` is the width of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

MAX_TILES = 40  # of hart_lite.models.families.internvl3; importing it would import torch
COLOURS, FRAMES = 3, 2  # a patch of Qwen2.5-VL's tower is FRAMES x patch x patch pixels of COLOURS


@dataclass(frozen=True)
class Vision:
    """Qwen2.5-VL's tower: `merge` x `merge` patches of `patch` x `patch` pixels become one visual token."""

    depth: int = 32
    hidden: int = 1280
    intermediate: int = 3420
    heads: int = 16
    patch: int = 14
    merge: int = 2
    levels: int = 1  # widths of the language model that the features of a token have: more with DeepStack
    positions: int = 0  # that are learned

    @classmethod
    def read(cls, config: dict[str, Any]) -> Vision:
        """From the vision section of a config.json, in which defaults of the library may be left out."""
        return cls(
            depth=config.get("depth", cls.depth),
            hidden=config["hidden_size"],
            intermediate=config.get("intermediate_size", cls.intermediate),
            heads=config.get("num_heads", cls.heads),
            patch=config.get("patch_size", cls.patch),
            merge=config.get("spatial_merge_size", cls.merge),
            levels=1 + len(config.get("deepstack_visual_indexes", range(cls.levels - 1))),
            positions=config.get("num_position_embeddings", cls.positions),
        )

    @property
    def patches(self) -> int:
        """For each visual token."""
        return self.merge**2

    @property
    def patch_values(self) -> int:
        return COLOURS * FRAMES * self.patch**2

    @property
    def min_pixels(self) -> int:
        """Of the smallest image that can be shown."""
        return (self.patch * self.merge) ** 2

    def tokens(self, pixels: int) -> int:
        """Visual tokens of an image that fills a budget of pixels."""
        return pixels // self.min_pixels

    def patches_per_token(self, pixels: int) -> float:
        return self.patches

    def parameters(self, out: int) -> int:
        merged = self.hidden * self.patches
        block = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 7 * self.hidden + 2 * self.intermediate
        merger = self.hidden + merged**2 + merged + merged * out + out
        return self.patch_values * self.hidden + self.depth * block + merger

    def adapter_sides(self, parts: list[str], out: int) -> int:
        """Inputs and outputs of the linears that carry adapters, summed: parameters of adapters of rank 1."""
        merged, sides = self.hidden * self.patches, 0
        if "vision" in parts:
            sides += self.depth * (6 * self.hidden + 3 * (self.hidden + self.intermediate))
        if "projector" in parts:
            sides += 3 * merged + out
        return sides


@dataclass(frozen=True)
class Qwen3Vit(Vision):
    """Qwen3-VL's tower: a plain transformer with learned positions, and a merger for every level of DeepStack."""

    depth: int = 27
    hidden: int = 1152
    intermediate: int = 4304
    patch: int = 16
    levels: int = 4
    positions: int = 48**2

    def parameters(self, out: int) -> int:
        h, merged = self.hidden, self.hidden * self.patches
        block = 4 * (h * h + h) + 2 * h * self.intermediate + h + self.intermediate + 4 * h
        merger = merged**2 + merged + merged * out + out
        norms = 2 * h + (self.levels - 1) * 2 * merged  # those of DeepStack come after merging
        embedding = (self.patch_values + 1 + self.positions) * h
        return embedding + self.depth * block + self.levels * merger + norms

    def adapter_sides(self, parts: list[str], out: int) -> int:
        merged, sides = self.hidden * self.patches, 0
        if "vision" in parts:
            sides += self.depth * (6 * self.hidden + 2 * (self.hidden + self.intermediate))
        if "projector" in parts:
            sides += self.levels * (3 * merged + out)
        return sides


@dataclass(frozen=True)
class _Tiles:
    """A plain vision transformer over square tiles, and one small whole image beside them; `merge` x `merge` patches
    become one token."""

    depth: int
    hidden: int
    intermediate: int
    heads: int
    tile: int
    patch: int = 14
    merge: int = 1
    levels: ClassVar[int] = 1

    @property
    def patch_values(self) -> int:
        return COLOURS * self.patch**2

    @property
    def tile_patches(self) -> int:
        return (self.tile // self.patch) ** 2

    def _tiles(self, pixels: int) -> int:
        return max(pixels, self.min_pixels) // self.tile**2

    @property
    def _embedding(self) -> int:
        """Convolution and positions."""
        return (self.patch_values + 1 + self.tile_patches) * self.hidden

    @property
    def _mlp(self) -> int:
        return 2 * self.hidden * self.intermediate + self.hidden + self.intermediate

    @property
    def merged(self) -> int:
        """Width of what the projector takes for one token."""
        return self.hidden * self.merge**2

    def _projector(self, out: int) -> int:
        return (self.merged + 1) * out + (out + 1) * out

    def adapter_sides(self, parts: list[str], out: int) -> int:
        sides = 0
        if "vision" in parts:
            sides += self.depth * (8 * self.hidden + 2 * (self.hidden + self.intermediate))
        if "projector" in parts:
            sides += self.merged + 3 * out
        return sides


@dataclass(frozen=True)
class InternVit(_Tiles):
    """InternVL's tower: a class token goes along with the patches of a tile."""

    depth: int = 24
    hidden: int = 1024
    intermediate: int = 4096
    heads: int = 16
    tile: int = 448
    merge: int = 2
    qkv_bias: bool = True
    qk_norm: bool = False
    rms_norm: bool = False

    @classmethod
    def read(cls, config: dict[str, Any], downsample: float) -> InternVit:
        return cls(
            depth=config.get("num_hidden_layers", 24),
            hidden=config.get("hidden_size", 1024),
            intermediate=config.get("intermediate_size", 4096),
            heads=config.get("num_attention_heads", 16),
            tile=_side(config.get("image_size", 448)),
            patch=_side(config.get("patch_size", 14)),
            merge=round(1 / downsample),
            qkv_bias=config.get("attention_bias", False),
            qk_norm=config.get("use_qk_norm", False),
            rms_norm=config.get("norm_type", "layer_norm") == "rms_norm",
        )

    @property
    def min_pixels(self) -> int:
        return self.tile**2

    @property
    def patches(self) -> float:
        """For each visual token, with its share of the class token."""
        return (self.tile_patches + 1) / (self.tile_patches // self.merge**2)

    def tokens(self, pixels: int) -> int:
        tiles = min(self._tiles(pixels), MAX_TILES)
        return (tiles + (tiles > 1)) * (self.tile_patches // self.merge**2)

    def patches_per_token(self, pixels: int) -> float:
        return self.patches

    def parameters(self, out: int) -> int:
        h = self.hidden
        attention = 4 * h * h + h + 3 * h * self.qkv_bias + 2 * h * self.qk_norm
        norms = 2 * h * (1 if self.rms_norm else 2) + 2 * h  # and the scales of both branches
        block = attention + self._mlp + norms
        return self._embedding + 2 * h + self.depth * block + 2 * self.merged + self._projector(out)


_GRIDS = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))


@dataclass(frozen=True)
class Siglip(_Tiles):
    """LLaVA-OneVision's tower: every patch becomes a token, and a newline closes each row of the tiles' tokens. Beyond
    `most_tiles` they are thinned out. `grids` are (rows, columns) of tiles."""

    depth: int = 26
    hidden: int = 1152
    intermediate: int = 4304
    heads: int = 16
    tile: int = 384
    most_tiles: int = 9
    grids: tuple[tuple[int, int], ...] = _GRIDS

    @classmethod
    def read(cls, config: dict[str, Any], pinpoints: list[list[int]] | None, aspect: str) -> Siglip:
        tile = config.get("image_size", 224)  # what SigLIP is where a config leaves its sizes out
        grids = tuple((height // tile, width // tile) for height, width in pinpoints) if pinpoints else _GRIDS
        return cls(
            depth=config.get("num_hidden_layers", 12),
            hidden=config.get("hidden_size", 768),
            intermediate=config.get("intermediate_size", 3072),
            heads=config.get("num_attention_heads", 12),
            tile=tile,
            patch=config.get("patch_size", 16),
            most_tiles=int(aspect.rpartition("_")[2]),
            grids=grids,
        )

    @property
    def min_pixels(self) -> int:
        return min(rows * columns for rows, columns in self.grids) * self.tile**2

    @property
    def patches(self) -> int:
        """For each visual token, where none is thinned out; newlines are none."""
        return 1

    def _grids(self, pixels: int) -> list[tuple[int, int]]:
        tiles = self._tiles(pixels)
        return [grid for grid in self.grids if grid[0] * grid[1] <= tiles]

    def tokens(self, pixels: int) -> int:
        """No image within the budget has more. Its shape decides how many rows it has, and what is padding."""
        side, most = self.tile // self.patch, 1.1**2 * self.most_tiles * self.tile_patches
        tiled = (int(min(r * c * side**2, most)) + r * side for r, c in self._grids(pixels))
        return self.tile_patches + max(tiled)

    def patches_per_token(self, pixels: int) -> float:
        """More than one where tokens are thinned out."""
        most = (1 + max(rows * columns for rows, columns in self._grids(pixels))) * self.tile_patches
        return max(most / self.tokens(pixels), 1)

    def parameters(self, out: int) -> int:
        h = self.hidden
        block = 4 * (h * h + h) + self._mlp + 4 * h
        newline = out
        return self._embedding + self.depth * block + 2 * h + self._projector(out) + newline


Tower = Vision | InternVit | Siglip


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]
