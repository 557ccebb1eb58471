"""Adapters in the precision of the model against PEFT's own forward, which computes them in float32."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from hart_lite.models.lora import speed_up_adapters


def adapted(dtype: torch.dtype, fast: bool, **config) -> nn.Module:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(48, 96), nn.Linear(96, 32)).to(dtype).requires_grad_(False)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["0", "1"], **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape) * 0.1
    if fast:
        speed_up_adapters(model)
    return model


def outcome(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    x = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    out = model(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return {"out": out, "input": x.grad} | {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_outputs_and_gradients_are_peft_s(dtype, most):
    ours, theirs = (outcome(adapted(dtype, fast), dtype) for fast in (True, False))
    assert ours.keys() == theirs.keys() and len(ours) == 6
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype
        assert (ours[name].float() - expected.float()).norm() <= most * expected.float().norm(), name


def test_the_adapters_stay_in_float32_and_can_be_switched_off():
    model = adapted(torch.bfloat16, True)
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    x = torch.randn(4, 48, dtype=torch.bfloat16)
    base = nn.Sequential(model.base_model.model[0].base_layer, model.base_model.model[1].base_layer)
    with model.disable_adapter():
        assert torch.equal(model(x), base(x))
    assert not torch.equal(model(x), base(x))


def test_casts_are_kept_without_gradient_until_the_adapters_change():
    model = adapted(torch.bfloat16, True)
    layer, x = model.base_model.model[0], torch.randn(4, 48, dtype=torch.bfloat16)
    with torch.no_grad():
        first = model(x)
        kept = layer.kept_cast[1][0]
        assert torch.equal(model(x), first) and layer.kept_cast[1][0] is kept
        layer.lora_A["default"].weight.mul_(2)
        assert not torch.equal(model(x), first)
        layer.lora_B["default"].weight.data = torch.zeros_like(layer.lora_B["default"].weight)
        assert torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.parametrize("config", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_other_formulas_keep_peft_s_forward(config):
    ours, theirs = adapted(torch.float32, True, **config), adapted(torch.float32, False, **config)
    for a, b in zip(ours.modules(), theirs.modules(), strict=True):
        assert ("forward" in vars(a)) == ("forward" in vars(b))
