"""InternVL3: 448-pixel tiles and a thumbnail, four patches to a token, boxes 0 to 1000 of the original image.

The transformers-native checkpoints (`OpenGVLab/InternVL3-8B-hf`), whose chat template has no system message of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from PIL import Image
from torch import nn
from transformers import InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from hart_lite.box_formats import from_original, written
from hart_lite.models.families.box_parsing import WrittenBox, on_named_images
from hart_lite.models.families.tiled import TiledFamily
from hart_lite.types import Box

MAX_TILES = 40  # the most its makers show it (InternVL 1.5, arXiv 2404.16821); trained on up to 12
# Of a response's text although the tokenizer calls them special.
_MARKUP = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")


class InternVL3(TiledFamily):
    """Implements `hart_lite.models.families.base.Family`."""

    name = "internvl3"
    title = "InternVL3"
    model_class = InternVLForConditionalGeneration
    box_format = "relative-1000"  # of the original image, no correction for tiles: OpenGVLab/InternVL#227, #844
    locate_words = " in the format <ref>area</ref><box>[[x1, y1, x2, y2]]</box>"  # without <ref> it may answer in prose
    several_words = "; write <ref>image n</ref> for a box on the n-th image"
    placeholder = "<IMG_CONTEXT>"
    published = {"tile": 448, "min_pixels": 448**2, "tile_tokens": 256}  # noqa: RUF012
    around = ("<img>", "</img>")
    banned = ("<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>")
    control = ("<|", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    vision_linears = r"layer\.\d+\.(?:attention\.(?:[qkv]_proj|projection_layer)|mlp\.fc[12])"

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__(source, revision)
        vision = self.config.vision_config
        self.tile = vision.image_size[0]
        self.min_pixels = self.tile**2
        self.tile_tokens = int(self.tile // vision.patch_size[0] * self.config.downsample_ratio) ** 2
        markup = self.tokenizer.convert_tokens_to_ids(list(_MARKUP))
        added = self.tokenizer.added_tokens_decoder
        self._unwritten = {i for i, token in added.items() if token.special} - set(markup)

    # -- images ----------------------------------------------------------------------------------------------------

    def fit(self, size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]:
        """The grid of tiles whose shape is nearest to the image's, as the stock processor chooses it."""
        self._check_budget(max_pixels)
        tiles = min(max_pixels // self.tile**2, MAX_TILES)
        fewest = min(math.ceil(min_pixels / self.tile**2), tiles)
        columns, rows = get_optimal_tiled_canvas((size[1], size[0]), (self.tile, self.tile), fewest, tiles)
        return columns * self.tile, rows * self.tile

    def _tiles(self, size: tuple[int, int]) -> int:
        """Without the thumbnail."""
        return (size[0] // self.tile) * (size[1] // self.tile)

    def _seen(self, size: tuple[int, int]) -> int:
        """A single tile is its own thumbnail."""
        tiles = self._tiles(size)
        return tiles + (tiles > 1)

    def image_tokens(self, size: tuple[int, int]) -> int:
        return self._seen(size) * self.tile_tokens

    def features(self, model: nn.Module, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        pixels = self._on_device(model, self._cut(images)["pixel_values"])
        out = model.model.get_image_features(pixels, return_dict=True).pooler_output
        return [tiles.flatten(0, 1) for tiles in out.split([self._seen(image.size) for image in images])]

    def _cut(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        side = {"height": self.tile, "width": self.tile}
        cut = []
        for image in images:
            n = self._tiles(image.size)  # with so many tiles the grid of the image's own shape is the nearest
            some = {"crop_to_patches": True, "min_patches": n, "max_patches": n, "size": side}
            cut.append(self.processor(images=[image], return_tensors="pt", **some)["pixel_values"])
        return {"pixel_values": torch.cat(cut)}

    # -- text ------------------------------------------------------------------------------------------------------

    def text(self, ids: Sequence[int]) -> str:
        """With the tags of boxes, which skipping special tokens would take away."""
        return self.tokenizer.decode([i for i in ids if i not in self._unwritten], skip_special_tokens=False).strip()

    # -- boxes -----------------------------------------------------------------------------------------------------

    def written_boxes(self, text: str, images: int) -> list[WrittenBox]:
        """Reads `<box>[[x1, y1, x2, y2], ..]</box>`, and any other form of `box_parsing` where no box is announced. Of
        several images, `image n` in the words before a box names its own."""
        return on_named_images(text, images)

    def box_to_text(
        self, boxes: Sequence[Box], seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> str:
        out = ""
        for image, group in groupby(boxes, key=lambda box: box.image):
            area = "area" if len(original) == 1 else f"image {image + 1}"
            lists = [from_original(self.box_format, box.xyxy, seen[image], original[image]) for box in group]
            inside = ", ".join(f"[{written(self.box_format, numbers)}]" for numbers in lists)
            out += f"<ref>{area}</ref><box>[{inside}]</box>"
        return out
