"""A plain LoRA adapter in PEFT's format, read without a model: for each linear layer A and B, and one scale for all.

What an adapter may have beyond that changes what it computes, so it is refused rather than left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from hart_lite.errors import HartError
from hart_lite.models.loading import ADAPTER_WEIGHTS
from hart_lite.utils.text import shown

CONFIG = "adapter_config.json"
# They say where the adapter sits, how it began and how it was trained; r, lora_alpha and the tensors say what it is.
HARMLESS = {
    *("r", "lora_alpha", "lora_dropout", "task_type", "inference_mode", "peft_version"),
    *("base_model_name_or_path", "revision", "auto_mapping", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern"),
}
LARGEST_ALPHA = 1e9  # JSON also has NaN, and integers that no float holds
BEGINNINGS = (True, False, "gaussian")  # others (PiSSA, OLoRA, CorDA, LoftQ) change the base's weights, too
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class Pair:
    """W becomes W + scale * B @ A."""

    A: torch.Tensor  # (r, in)
    B: torch.Tensor  # (out, r)


@dataclass(frozen=True)
class LoraFile:
    folder: Path
    base: str  # as the training run named it
    scale: float
    pairs: dict[str, Pair]  # by module of the base, as transformers names it


def find_adapter(source: Path) -> Path:
    """The adapter's folder of a run directory, or `source` itself where it is one."""
    if (source / CONFIG).is_file():
        return source
    if (source / "recipe.yaml").is_file() and not (source / "adapter").is_dir():
        stages = sorted(str(found.parent) for found in source.glob(f"stages/*/adapter/{CONFIG}"))
        raise HartError(
            f"the run in {source} has not ended, so it has no adapter yet; "
            f"hart-lite train {source / 'recipe.yaml'} --resume"
            + (f"; or take that of a stage: {', '.join(stages)}" if stages else "")
        )
    if not (source / "adapter").is_dir():
        raise HartError(f"{source} is neither a run directory nor the folder of an adapter: {CONFIG} is not there")
    return source / "adapter"


def read_lora(folder: Path) -> LoraFile:
    """Raises `HartError` for a folder without an adapter, a damaged one, and one that is more than plain LoRA."""
    config = read_config(folder)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise HartError(f"{folder / CONFIG} does not name a base (base_model_name_or_path)")
    _refuse_more_than_lora(folder, config)
    r, alpha = config.get("r"), config.get("lora_alpha")
    if type(r) is not int or r < 1 or type(alpha) not in (int, float) or not abs(alpha) < LARGEST_ALPHA:
        raise HartError(f"{folder / CONFIG} is damaged: r = {shown(r)}, lora_alpha = {shown(alpha)}")
    return LoraFile(folder, base, alpha / r, _pairs(folder, r))


def read_config(folder: Path) -> dict:
    for name in (CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise HartError(f"{folder} holds no adapter: {name} is missing")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise HartError(f"{folder / CONFIG} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise HartError(f"{folder / CONFIG} is damaged: it holds {shown(config)}")
    return config


def _refuse_more_than_lora(folder: Path, config: dict) -> None:
    plain = LoraConfig().to_dict() | {"peft_type": "LORA"}
    more = {
        key: value
        for key, value in config.items()
        if key not in HARMLESS and value and value != plain.get(key) and key != "init_lora_weights"
    }
    if config.get("peft_type") != "LORA":
        more["peft_type"] = config.get("peft_type")
    if (beginning := config.get("init_lora_weights", True)) not in BEGINNINGS:
        more["init_lora_weights"] = beginning
    if more:
        what = ", ".join(f"{key} = {shown(value)}" for key, value in more.items())
        raise HartError(
            f"the adapter in {folder} is more than plain LoRA: {what}. Only W + lora_alpha / r * B @ A on linear "
            "layers is merged here; for others there is PEFT's merge_and_unload, on the unquantised base"
        )


def _pairs(folder: Path, r: int) -> dict[str, Pair]:
    path = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise HartError(f"{path} is damaged: {error}") from error
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or tensor.dim() != 2 or tensor.shape["AB".index(match["side"])] != r:
            raise HartError(
                f"{path} holds {shown(name)} of shape {tuple(tensor.shape)}, which is no LoRA matrix of a linear layer "
                f"of rank {r}; only those are merged"
            )
        if not tensor.isfinite().all():
            raise HartError(f"{path}: {shown(name)} holds values that are no numbers; the training had diverged")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    if not sides:
        raise HartError(f"{path} is empty")
    if halves := sorted(module for module, found in sides.items() if len(found) < 2):
        raise HartError(f"{path} holds only one of A and B for {shown(halves[0])}")
    return {module: Pair(**found) for module, found in sorted(sides.items())}
