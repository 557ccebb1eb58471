"""Qwen2.5-VL: absolute pixels of the resized image, m-RoPE, one merged token for each 28 x 28 pixels. Most of it is
Qwen3-VL's, too (hart_lite.models.families.qwen3_vl).

Works without torchvision: the stock processor class wants a video processor, so the tokenizer and the PIL image
processor are used on their own (transformers #48558).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils import ModelOutput
from transformers.vision_utils import get_vision_position_ids

from hart_lite.box_formats import from_original
from hart_lite.models.families.box_parsing import REACH, Found, WrittenBox, found, on_image
from hart_lite.models.families.chat import ChatFamily
from hart_lite.models.vision_attention import as_matrix_product, windows_together
from hart_lite.types import Box, Tokens

MAX_ASPECT = 100  # smart_resize refuses 200; other engines break earlier
_IMAGE_INDEX = re.compile(r"[\"'\u201c\u201d]image[\"'\u201c\u201d]\s{0,64}[:\uff1a]\s{0,64}[\"']?(\d{1,20})")


class Qwen25VL(ChatFamily):
    """Implements `hart_lite.models.families.base.Family`."""

    name = "qwen2_5_vl"
    title = "Qwen2.5-VL"
    model_class = Qwen2_5_VLForConditionalGeneration
    position_rows = 3  # m-RoPE
    box_format = "seen-pixels"
    locate_words = ' in JSON format: [{"bbox_2d": [x1, y1, x2, y2]}]'
    several_words = '; add "image": n to a box on the n-th image'
    placeholder = "<|image_pad|>"
    published = {"tile": 28, "factor": 28, "min_pixels": 28**2}  # noqa: RUF012
    banned = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>")
    vision_linears = r"attn\.(qkv|proj)|mlp\.(gate|up|down)_proj"  # of one block of the tower, as a pattern
    projector_linears = r"merger\.mlp\.[02]"

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__(source, revision)
        self.tile = self.factor = self.processor.patch_size * self.processor.merge_size
        self.min_pixels = self.factor**2

    # -- model -----------------------------------------------------------------------------------------------------

    def vision(self, model: nn.Module) -> nn.Module:
        return model.model.visual

    def rotary_rows(self, language: nn.Module) -> torch.Tensor:
        """m-RoPE: the first frequencies turn by time, the next by height, the last by width."""
        section = language.config.rope_parameters["mrope_section"]
        return torch.arange(len(section)).repeat_interleave(torch.tensor(section))

    def lora_targets(self, parts: Sequence[str]) -> str:
        patterns = {
            "language": r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
            "vision": rf".*visual\.blocks\.\d+\.({self.vision_linears})",
            "projector": rf".*visual\.({self.projector_linears})",
        }
        return "|".join(f"(?:{patterns[part]})" for part in parts)

    # Modules kept in 16 bit under 4-bit quantisation: patterns match from the start of a name or as its suffix, and
    # giving any list drops the default exclusion of lm_head.
    unquantised = ("model.visual", "lm_head")

    # -- images ----------------------------------------------------------------------------------------------------

    def fit(self, size: tuple[int, int], max_pixels: int, min_pixels: int) -> tuple[int, int]:
        """Both sides multiples of `factor` (28). An aspect ratio above 100 is squeezed to it rather than refused."""
        self._check_budget(max_pixels)
        width, height = size
        width, height = max(width, height / MAX_ASPECT), max(height, width / MAX_ASPECT)
        min_pixels = max(min_pixels, self.min_pixels)
        h, w = smart_resize(
            max(round(height), 1),
            max(round(width), 1),
            factor=self.factor,
            min_pixels=min_pixels,
            max_pixels=max_pixels * (1 + 1e-9),  # its rounding takes a row from every tenth square at a square budget
        )
        h, w = max(h, self.factor), max(w, self.factor)
        while h * w > max_pixels:  # a thin image: smart_resize keeps at least one token a side and may overshoot
            h, w = (h - self.factor, w) if h > w else (h, w - self.factor)
        return w, h

    def image_tokens(self, size: tuple[int, int]) -> int:
        return (size[0] // self.factor) * (size[1] // self.factor)

    def speed_up_vision(self, model: nn.Module, attention: str) -> None:
        tower = self.vision(model)
        as_matrix_product(tower.patch_embed)
        if attention in ("auto", "sdpa"):
            windows_together(tower)

    def features(self, model: nn.Module, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """The grid stays on the host: what the tower asks of it is then asked of no card."""
        tower = model.model.visual
        parameter, side = next(tower.parameters()), self.processor.patch_size
        grid = torch.tensor([[1, image.height // side, image.width // side] for image in images])
        patches = torch.cat([self.patches(image, parameter.device) for image in images]).to(parameter.dtype)
        places = {name: place.to(parameter.device) for name, place in self._places(tower, grid).items()}
        out = self._rows(tower(patches, grid_thw=grid, return_dict=True, **places))
        return list(out.split((grid.prod(-1) // tower.spatial_merge_size**2).tolist()))

    def _places(self, tower: nn.Module, grid: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the tower would make of the grid."""
        return {"position_ids": get_vision_position_ids(grid, tower.spatial_merge_size)}

    def _rows(self, out: ModelOutput) -> torch.Tensor:
        """(tokens, E) of all images, of what the tower returns."""
        return out.pooler_output

    def patches(self, image: Image.Image, device: torch.device) -> torch.Tensor:
        """(patches, values) as the stock processor makes them, on the device: a byte a value goes there, not four."""
        processor = self.processor
        side, merged, times = processor.patch_size, processor.merge_size, processor.temporal_patch_size
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (processor.image_mean, processor.image_std))
        pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)
        values = (pixels.float() * processor.rescale_factor - mean) / std
        rows, columns = image.height // side // merged, image.width // side // merged
        grid = values.reshape(len(values), rows, merged, side, columns, merged, side).permute(1, 4, 2, 5, 0, 3, 6)
        still = grid[:, :, :, :, :, None].expand(*grid.shape[:5], times, side, side)  # an image is a film of one scene
        return still.reshape(-1, len(values) * times * side**2)

    def _pixels(self, images: Sequence[Image.Image], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        pixels = self.processor(images=list(images), do_resize=False, return_tensors="pt")
        return {"mm_token_type_ids": (ids == self.image_id).long(), **pixels}

    # -- positions -------------------------------------------------------------------------------------------------

    def positions(self, tokens: Tokens) -> torch.Tensor:
        """(3, T): time, height, width. Text counts on from the largest position before it."""
        rows, next_position, cursor = [], 0, 0
        for slot in tokens.slots:
            n = slot.start - cursor
            rows.append(torch.arange(next_position, next_position + n).expand(3, n))
            next_position += n
            w, h = slot.view.size[0] // self.factor, slot.view.size[1] // self.factor
            ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            rows.append(torch.stack([torch.zeros(h * w, dtype=torch.long), ys.flatten(), xs.flatten()]) + next_position)
            next_position += max(h, w)
            cursor = slot.start + slot.length
        n = len(tokens) - cursor
        rows.append(torch.arange(next_position, next_position + n).expand(3, n))
        return torch.cat(rows, dim=1)

    # -- boxes -----------------------------------------------------------------------------------------------------

    def written_boxes(self, text: str, images: int) -> list[WrittenBox]:
        """Reads `"bbox_2d": [x1, y1, x2, y2]`, and any other form of `box_parsing` where no box is announced.

        An entry may add `"image": n` (counting from 1) to point into the n-th of several images. What is no number, and
        a box on an image that is not there, comes as NaN.
        """
        return [on_image(box, _image_index(text, box), images) for box in found(text)]

    def box_to_text(
        self, boxes: Sequence[Box], seen: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> str:
        entries = []
        for box in boxes:
            there = from_original(self.box_format, box.xyxy, seen[box.image], original[box.image])
            numbers = ",".join(str(round(value)) for value in there)
            entries.append(f'{{"bbox_2d": [{numbers}]' + (f', "image": {box.image + 1}' if box.image else "") + "}")
        return "[" + ", ".join(entries) + "]"


def _image_index(text: str, box: Found) -> int:
    """Index of the image that the entry around a box names; the first one when it names none."""
    before = re.split("[{}]", text[max(box.start - REACH, 0) : box.start])[-1]
    after = re.split("[{}]", text[box.stop : box.stop + REACH])[0]
    named = _IMAGE_INDEX.search(before) or _IMAGE_INDEX.search(after)
    return int(named[1]) - 1 if named else 0
