"""What InternVL and LLaVA-OneVision share: images cut into square tiles beside a small whole one, 1-D positions, and
the names of the modules: tower, projector, language model.

Their stock processor classes want a video processor and with it torchvision, as Qwen2.5-VL's does; tokenizer and PIL
image processor are used on their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig

from hart_lite.errors import HartError
from hart_lite.models.families.chat import ChatFamily
from hart_lite.types import Tokens


class TiledFamily(ChatFamily):
    """`fit` gives the size of the tiled image. The small whole image is scaled from that, and not counted in it.

    A family of its own adds `_cut`: the tiles of images, and what else the model's forward takes with them.
    """

    position_rows = 1
    vision_linears: str  # of one block of the tower, as a pattern
    # Modules kept in 16 bit under 4-bit quantisation (see Qwen25VL).
    unquantised = ("model.vision_tower", "model.multi_modal_projector", "lm_head")

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__(source, revision)
        self.config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        if self.config.image_token_id != self.image_id:
            raise HartError(
                f"{source} does not fit together: {self.placeholder} is token {self.image_id} of its tokenizer and "
                f"{self.config.image_token_id} in its config"
            )
        self._use_template_of_processor()

    def save_processor(self, folder: Path) -> None:
        super().save_processor(folder)
        settings = self._file("processor_config.json")
        if settings:
            shutil.copy(settings, folder)

    # -- model -----------------------------------------------------------------------------------------------------

    def vision(self, model: nn.Module) -> nn.Module:
        return nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector])

    def lora_targets(self, parts: Sequence[str]) -> str:
        patterns = {
            "language": r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
            "vision": r".*vision_tower\.(?:.*\.)?" + self.vision_linears,
            "projector": r".*multi_modal_projector\.linear_[12]",
        }
        return "|".join(f"(?:{patterns[part]})" for part in parts)

    def positions(self, tokens: Tokens) -> torch.Tensor:
        """(1, T): every token counts, image tokens too."""
        return torch.arange(len(tokens))[None]

    # -- images ----------------------------------------------------------------------------------------------------

    def _on_device(self, model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        parameter = next(model.model.vision_tower.parameters())
        return pixels.to(parameter.device, parameter.dtype)

    def _pixels(self, images: Sequence[Image.Image], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._cut(images)
