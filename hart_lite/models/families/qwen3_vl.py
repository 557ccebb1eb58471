"""Qwen3-VL (dense, Instruct): boxes from 0 to 1000, one merged token for each 32 x 32 pixels, and DeepStack: what the
tower's middle blocks see is added to the hidden states of the first language layers, at the places of the image.

Thinking checkpoints have the same config; what they open before every answer tells them apart.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import ModelOutput
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from hart_lite.errors import HartError
from hart_lite.models.families.qwen2_5_vl import Qwen25VL


class Qwen3VL(Qwen25VL):
    """Implements `hart_lite.models.families.base.Family`."""

    name = "qwen3_vl"
    title = "Qwen3-VL"
    model_class = Qwen3VLForConditionalGeneration
    published = {"tile": 32, "factor": 32, "min_pixels": 32**2}  # noqa: RUF012
    box_format = "relative-1000"  # QwenLM/Qwen3-VL#1427, #1486, #1623
    vision_linears = r"attn\.(qkv|proj)|mlp\.linear_fc[12]"
    projector_linears = r"(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__(source, revision)
        self._use_template_of_processor()
        if "<think>" in self._render([self._message("user", ["?"])]):
            raise HartError(
                f"{source} is a Thinking checkpoint, which reasons at length before every box and every answer; take "
                "the Instruct one"
            )

    def rotary_rows(self, language: nn.Module) -> torch.Tensor:
        """m-RoPE interleaved: time, height, width in turn, and time alone at the end."""
        rows = super(Qwen25VL, self).rotary_rows(language)
        for row in (1, 2):
            rows[row : 3 * language.rotary_emb.mrope_section[row] : 3] = row
        return rows

    def _places(self, tower: nn.Module, grid: torch.Tensor) -> dict[str, torch.Tensor]:
        """With the learned positions around each patch and their weights."""
        taps, weights = get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=tower.spatial_merge_size,
        )
        return super()._places(tower, grid) | {"interp_indices": taps, "interp_weights": weights}

    def _rows(self, out: ModelOutput) -> torch.Tensor:
        return torch.cat([out.pooler_output, *out.deepstack_features], dim=-1)
