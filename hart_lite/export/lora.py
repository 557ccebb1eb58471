"""A plain LoRA adapter in PEFT's format, read without a model, and what a weight becomes when it is merged.

It has A and B for each linear layer, and one scale for all. What an adapter may have beyond that changes what it
computes, so it is refused rather than left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from hart_lite.errors import ModelError
from hart_lite.models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from hart_lite.runs.layout import ADAPTER, RECIPE, STAGES, is_run
from hart_lite.utils.text import shown

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


@dataclass(frozen=True)
class MergedTensor:
    """What a weight W becomes: W + scale * B @ A, summed in float32 and rounded once to the dtype of W.

    pair: None where nothing is added.
    quantised: W is first replaced by what its 4 bits (nf4) stand for, quantised from `dtype` (None: its own).
    """

    name: str
    pair: Pair | None
    scale: float
    quantised: bool
    dtype: torch.dtype | None = None

    def start(self, weight: torch.Tensor) -> torch.Tensor:
        """What B @ A is added to."""
        return through_nf4(weight.to(self.dtype or weight.dtype)) if self.quantised else weight

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Same shape and dtype. Raises `ModelError` where the sum is infinite or not a number."""
        value = self.start(weight).float()
        if self.pair is not None:
            value = value.add(self.pair.B.float() @ self.pair.A.float(), alpha=self.scale)
        value = value.to(weight.dtype)
        if not value.isfinite().all():
            raise ModelError(f"{self.name}: the sum does not fit {weight.dtype}; the adapter or the base is damaged")
        return value


def through_nf4(weight: torch.Tensor) -> torch.Tensor:
    """nf4 with double quantisation and back, as bitsandbytes does it for a base loaded with model.quant=nf4."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # here: merging without it does not need it

    return dequantize_4bit(*quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True))


def find_adapter(source: Path) -> Path:
    """The adapter's folder of a run directory, or `source` itself where it is one."""
    if (source / ADAPTER_CONFIG).is_file():
        return source
    if (source / ADAPTER).is_dir():
        return source / ADAPTER
    if is_run(source):
        stages = sorted(str(found.parent) for found in source.glob(f"{STAGES}/*/{ADAPTER}/{ADAPTER_CONFIG}"))
        raise ModelError(
            f"the run in {source} has not ended, so it has no adapter yet; hart-lite train {source / RECIPE} --resume"
            + (f"; or take that of a stage: {', '.join(stages)}" if stages else "")
        )
    raise ModelError(f"{source} is neither a run directory nor the folder of an adapter: it has no {ADAPTER_CONFIG}")


def read_lora(folder: Path) -> LoraFile:
    """Raises `ModelError` for a folder without an adapter, a damaged one, and one that is more than plain LoRA."""
    config = read_adapter_config(folder)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / ADAPTER_CONFIG} does not name a base (base_model_name_or_path)")
    _refuse_more_than_lora(folder, config)
    r, alpha = config.get("r"), config.get("lora_alpha")
    if type(r) is not int or r < 1 or type(alpha) not in (int, float) or not abs(alpha) < LARGEST_ALPHA:
        raise ModelError(f"{folder / ADAPTER_CONFIG} is damaged: r = {shown(r)}, lora_alpha = {shown(alpha)}")
    return LoraFile(folder, base, alpha / r, _pairs(folder, r))


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
        raise ModelError(
            f"the adapter in {folder} is more than plain LoRA: {what}. Only W + lora_alpha / r * B @ A on linear "
            "layers is merged here; for others there is PEFT's merge_and_unload, on the unquantised base"
        )


def _pairs(folder: Path, r: int) -> dict[str, Pair]:
    path = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or tensor.dim() != 2 or tensor.shape["AB".index(match["side"])] != r:
            raise ModelError(
                f"{path} holds {shown(name)} of shape {tuple(tensor.shape)}, which is not a LoRA matrix of a linear "
                f"layer of rank {r}; only those are merged"
            )
        if not tensor.isfinite().all():
            raise ModelError(f"{path}: {shown(name)} holds infinite or NaN values; the training had diverged")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    if not sides:
        raise ModelError(f"{path} is empty")
    if halves := sorted(module for module, found in sides.items() if len(found) < 2):
        raise ModelError(f"{path} holds only one of A and B for {shown(halves[0])}")
    return {module: Pair(**found) for module, found in sorted(sides.items())}
