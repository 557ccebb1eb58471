"""LLaVA-OneVision: 384-pixel tiles (anyres) after the whole image at that size, each row of tokens closed by a newline.

Every image is cut into tiles, also one of several: the stock processor does so with a flat list of images, while it
pads several images of one conversation to squares. The chat template puts the images of a message first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import nn
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.image_processing_utils import select_best_resolution

from hart_lite.box_formats import BoxFormat, from_original, written
from hart_lite.models.families.box_parsing import WrittenBox, on_named_images
from hart_lite.models.families.tiled import TiledFamily
from hart_lite.types import Box

MAX_ASPECT = 100  # thinner, nothing would be left between the bars that pad a tile


class LlavaOneVision(TiledFamily):
    """Implements `hart_lite.models.families.base.Family`."""

    name = "llava_onevision"
    title = "LLaVA-OneVision"
    model_class = LlavaOnevisionForConditionalGeneration
    # A convention, not knowledge (hart_lite.box_formats): `hart-lite box-format` measures it, model.box_format sets it.
    # So the words that ask for a box say nothing of its numbers.
    box_format = "unit"
    locate_words = " as a bounding box [x1, y1, x2, y2]"
    several_words = "; write image n: before a box on the n-th image"
    placeholder = "<image>"
    published = {  # noqa: RUF012
        "tile": 384,
        "patches": 27,
        "grids": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
        "min_pixels": 384**2,
        "most_tiles": 9,
    }
    banned = ("<image>", "<video>", "<|im_start|>")
    control = ("<|", "<image>", "<video>")
    vision_linears = r"layers\.\d+\.(?:self_attn\.(?:[qkv]_proj|out_proj)|mlp\.fc[12])"

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__(source, revision)
        vision = self.config.vision_config
        self.tile, self.patches = vision.image_size, vision.image_size // vision.patch_size
        self.grids = self.config.image_grid_pinpoints  # (height, width) in pixels
        self.min_pixels = min(height * width for height, width in self.grids)
        self.most_tiles = int(self.config.vision_aspect_ratio.rpartition("_")[2])  # of "anyres_max_9"

    def use_box_format(self, box_format: BoxFormat) -> None:
        self.box_format = box_format

    # -- images ----------------------------------------------------------------------------------------------------

    def fit(self, size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]:
        """The image within the best grid of tiles, touching two of its sides; what is left of the grid is padded."""
        self._check_budget(max_pixels)
        width, height = size
        width, height = max(width, height / MAX_ASPECT), max(height, width / MAX_ASPECT)
        enlarged = max(math.sqrt(min_pixels / (width * height)), 1)
        width, height = math.ceil(width * enlarged), math.ceil(height * enlarged)
        allowed = [grid for grid in self.grids if grid[0] * grid[1] <= max_pixels]
        grid_height, grid_width = select_best_resolution((height, width), allowed)
        if grid_width / width < grid_height / height:
            return grid_width, min(math.ceil(height * grid_width / width), grid_height)
        return min(math.ceil(width * grid_height / height), grid_width), grid_height

    def image_tokens(self, size: tuple[int, int]) -> int:
        """The whole image, then the tokens of the tiles without padding, with one more for each row; above the most
        tiles their tokens are thinned out."""
        width, height = size
        grid = select_best_resolution((height, width), self.grids)
        rows, columns = (side // self.tile * self.patches for side in grid)
        if width / height > columns / rows:
            rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
        else:
            columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
        ratio = math.sqrt(rows * columns / (self.most_tiles * self.patches**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
        return self.patches**2 + rows * (columns + 1)

    def features(self, model: nn.Module, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        cut = self._cut(images)
        pixels, sizes = self._on_device(model, cut["pixel_values"]), cut["image_sizes"]
        return list(model.model.get_image_features(pixels, sizes, return_dict=True).pooler_output)

    def _cut(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        side = {"height": self.tile, "width": self.tile}
        some = {"size": side, "image_grid_pinpoints": [list(grid) for grid in self.grids]}
        cut = self.processor(images=list(images), return_tensors="pt", **some)
        return {"pixel_values": cut["pixel_values"], "image_sizes": cut["image_sizes"]}

    # -- boxes -----------------------------------------------------------------------------------------------------

    def written_boxes(self, text: str, images: int) -> list[WrittenBox]:
        """Reads every form of `box_parsing`. Of several images, `image n` in the words before a box names its own."""
        return on_named_images(text, images)

    def box_to_text(
        self, boxes: Sequence[Box], seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> str:
        out = []
        for box in boxes:
            numbers = from_original(self.box_format, box.xyxy, seen[box.image], original[box.image])
            place = f"image {box.image + 1}: " if len(original) > 1 else ""
            out.append(f"{place}[{written(self.box_format, numbers)}]")
        return ", ".join(out)
