"""Random models at a preset's dimensions, in memory: whole, or in 4 bits layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import BitsAndBytesConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from hart_lite.config.sections import Lora, PixelBudgets, Rollout
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.rollout import Runner
from hart_lite.models.card import prepare_card
from hart_lite.models.loading import DTYPES, keep_differentiable
from hart_lite.models.policy import Policy
from hart_lite.perf.model_sizes import Dimensions
from hart_lite.perf.step_time.presets import TOKEN, FixedLength, Preset, config_of
from hart_lite.toy.model import build_processor, toy_tokenizer
from hart_lite.types import Example, Trajectory


@dataclass(frozen=True)
class Workload:
    """What every measurement runs on."""

    preset: Preset
    runner: Runner
    dims: Dimensions

    @property
    def device(self) -> torch.device:
        return self.runner.policy.device

    @property
    def tokens_per_pack(self) -> int:
        """Room for a group in one pack: both turns with every crop at its budget, and text."""
        preset = self.preset
        return 500 + preset.full_tokens + preset.samples * (preset.crop_tokens + 2 * preset.response + 150)

    def at(self, **changes: int) -> Workload:
        """The same model under other `samples` or `full_tokens`."""
        return _workload(replace(self.preset, **changes), self.runner.policy, self.dims)

    def wait(self) -> None:
        """Until the device has done what it was given: before a clock is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def workload(preset: Preset, folder: Path) -> Workload:
    """`folder` receives tokenizer, image processor and config. The adapters change what the model says."""
    toy_tokenizer().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    config_of(preset).save_pretrained(folder)
    family = FixedLength(str(folder))
    family.seen = family.fit((preset.image_side,) * 2, preset.full_tokens * TOKEN, TOKEN)
    model = random_model(preset)
    family.speed_up_vision(model, "sdpa")
    policy = Policy(family, model, Lora(), checkpointing=preset.gradient_checkpointing)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    return _workload(preset, policy, Dimensions.of(str(folder)))


def _workload(preset: Preset, policy: Policy, dims: Dimensions) -> Workload:
    pixels = PixelBudgets(full=preset.full_tokens * TOKEN, crop=preset.crop_tokens * TOKEN, min=TOKEN)
    settings = Rollout(samples=preset.samples, max_tokens_locate=preset.response, max_tokens_answer=preset.response)
    return Workload(preset, runner_of(policy, pixels, settings), dims)


def runner_of(policy: Policy, pixels: PixelBudgets, settings: Rollout) -> Runner:
    engine = LocalEngine(policy, settings.tokens_per_batch, max_batch=1, cuda_graph=settings.cuda_graph)
    model = OpenModel("random weights", engine, policy.family.name, {}, pixels, settings)
    return Runner(model, alternate_rewards)


def alternate_rewards(examples: Sequence[Example], trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Half of a group is right, so that every step has something to learn."""
    return [replace(t, reward=float(n % 2)) for n, t in enumerate(trajectories)]


def random_model(preset: Preset) -> nn.Module:
    """The same weights on every call."""
    prepare_card(torch.device(preset.device))
    torch.manual_seed(0)
    config = config_of(preset)
    config._attn_implementation = {"text_config": "sdpa", "vision_config": "sdpa"}
    dtype = DTYPES[preset.dtype]
    if preset.quant == "none":
        with torch.device(preset.device):  # a card draws them in no time
            model = Qwen2_5_VLForConditionalGeneration(config)
        return model.to(preset.device, dtype).eval()
    return _quantised(config, preset.device, dtype)


def _quantised(config: Qwen2_5_VLConfig, device: str, dtype: torch.dtype) -> nn.Module:
    """Random 4-bit weights, drawn and packed one matrix at a time: the whole is never there in 16 bits."""
    from bitsandbytes.nn import Params4bit
    from transformers.integrations import replace_with_bnb_linear

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config).to(dtype)
    model = replace_with_bnb_linear(model, list(FixedLength.unquantised), quantisation)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            std = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.0
            value = torch.randn(parameter.shape, dtype=dtype, device=device) * std
            if parameter.dim() == 1 and "norm" in type(module).__name__.lower():
                value.fill_(1)
            if isinstance(parameter, Params4bit):
                fresh = Params4bit(value, requires_grad=False, quant_type="nf4", compress_statistics=True).to(device)
            else:
                fresh = nn.Parameter(value, requires_grad=False)
            setattr(module, name, fresh)
    _rebuild_rotary(model, device)
    if device == "cpu":
        keep_differentiable(model)
    model.is_loaded_in_4bit = True
    model.tie_weights()
    return model.eval()


def _rebuild_rotary(model: nn.Module, device: str) -> None:
    """Their tables are computed, not loaded, and were computed on the meta device."""
    for part in (model.model.language_model, model.model.visual):
        for name, module in list(part.named_children()):
            if "rotary" in name:
                setattr(part, name, type(module)(module.config).to(device))
