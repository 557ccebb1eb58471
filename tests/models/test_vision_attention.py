"""The tower with its windows in one call against the library's own tower, which has a call for each window."""

from __future__ import annotations

import pytest
import torch
from pictures import Photo
from torch.utils._python_dispatch import TorchDispatchMode

from hart_lite.models import kernels
from hart_lite.models.policy import Policy

SIZES = ((112, 84), (252, 140), (28, 28), (300 // 28 * 28, 112))


@pytest.fixture(scope="module")
def images():
    return [Photo(width, height, n).load() for n, (width, height) in enumerate(SIZES)]


@pytest.fixture(scope="module")
def plain(tiny_base, policy_once):
    return policy_once.family.load_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def policy_once(new_policy) -> Policy:
    return new_policy()


def of_the_library(family, model, images) -> list[torch.Tensor]:
    batch = family.processor(images=images, do_resize=False, return_tensors="pt")
    return model.model.get_image_features(
        batch["pixel_values"], batch["image_grid_thw"], return_dict=True
    ).pooler_output


def test_features_are_those_of_the_library(policy_once, plain, images):
    with torch.no_grad():
        ours = policy_once.family.features(policy_once.model, images)
        theirs = of_the_library(policy_once.family, plain, images)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


def test_so_are_their_gradients(new_policy, plain, images):
    """Of the pixels' projection, through every layer of the tower."""
    policy = new_policy()
    grads = []
    for model, compute in ((policy.model, policy.family.features), (plain, None)):
        weight = model.model.visual.patch_embed.proj.weight.requires_grad_()
        out = compute(model, images) if compute else of_the_library(policy.family, model, images)
        flat = torch.cat([f.flatten() for f in out])
        grads.append(torch.autograd.grad((flat * torch.linspace(-1, 1, len(flat))).sum(), weight)[0])
        weight.requires_grad_(False)
    assert grads[1].norm() > 0
    assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[1].norm()


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.attention = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.attention += "attention" in str(function)
        return function(*args, **(kwargs or {}))


def test_a_layer_makes_a_call_for_each_length_of_a_window_at_most(policy_once, plain):
    """For 1,024 image tokens: 4 lengths where the image's sides are no multiples of a window, on a CPU, which knows no
    lengths that differ. Cards need one call."""
    images = [Photo(28 * 33, 28 * 31).load()]
    layers = len(plain.model.visual.blocks)
    with torch.no_grad(), Calls() as ours:
        policy_once.family.features(policy_once.model, images)
    with torch.no_grad(), Calls() as theirs:
        of_the_library(policy_once.family, plain, images)
    assert ours.attention <= 4 * layers
    assert theirs.attention > 20 * layers


def test_no_value_is_asked_of_the_device(monkeypatch, new_policy):
    """On a device that holds no values, where asking for one is an error."""
    policy = new_policy()
    policy.model.to("meta")
    calls = []

    def forward(q, k, v, call, scale):
        calls.append(call)
        return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0]), None

    monkeypatch.setattr(kernels, "forward", forward)
    features = policy.family.features(policy.model, [Photo(112, 84).load(), Photo(56, 56).load()])
    assert [f.device.type for f in features] == ["meta", "meta"]
    assert len(calls) == len(policy.model.model.visual.blocks)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.ones(2, device="meta").tolist()


def test_patches_are_those_of_the_stock_processor(policy_once, images):
    family = policy_once.family
    for image in images:
        theirs = family.processor(images=[image], do_resize=False, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(family.patches(image, torch.device("cpu")), theirs, rtol=0, atol=1e-6)
