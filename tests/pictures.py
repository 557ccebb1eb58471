"""Test pictures and the stock way of feeding a sequence to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from hart_lite.models.generation import Sampling, generate
from hart_lite.models.policy import Policy
from hart_lite.types import ImageView, Tokens


@dataclass(frozen=True)
class Photo:
    """Noise, the same wherever `kept` (left, top, right, bottom) is, another outside it for every `seed`."""

    width: int
    height: int
    seed: int = 0
    kept: tuple[int, int, int, int] | None = None

    @property
    def key(self) -> str:
        return repr(self)

    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def load(self) -> Image.Image:
        shape = (self.height, self.width, 3)
        pixels = np.random.default_rng(self.seed).integers(0, 256, shape, dtype=np.uint8)
        if self.kept:
            left, top, right, bottom = self.kept
            same = np.random.default_rng(10**6).integers(0, 256, shape, dtype=np.uint8)
            pixels[top:bottom, left:right] = same[top:bottom, left:right]
        return Image.fromarray(pixels)


def photo_view(width: int = 56, height: int = 56, seed: int = 0) -> ImageView:
    """A picture shown as it is; sides are multiples of 28."""
    return ImageView(Photo(width, height, seed), (width, height))


def stock_inputs(policy: Policy, tokens: Tokens) -> dict[str, torch.Tensor]:
    """What the stock processor would give the stock model: ids, pixels, grid and token types, unpacked."""
    family = policy.family
    ids = torch.tensor([tokens.ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if tokens.slots:
        images = [slot.view.load() for slot in tokens.slots]
        inputs |= dict(family.processor(images=images, do_resize=False, return_tensors="pt"))
        inputs["mm_token_type_ids"] = (ids == family.image_id).long()
    return inputs


def stock_logps(policy: Policy, tokens: Tokens, model: torch.nn.Module | None = None) -> torch.Tensor:
    """Log-probs of the sampled tokens by one plain forward pass of the whole model."""
    logits = (model or policy.model)(**stock_inputs(policy, tokens), use_cache=False).logits[0].float()
    at = torch.tensor([i for span in tokens.sampled for i in range(span.start, span.stop)])
    targets = torch.tensor(tokens.ids)[at]
    return logits.log_softmax(-1)[at - 1, targets]


def drawn(policy: Policy, prompts: Sequence[Tokens], sampling: Sampling) -> list[tuple[int, ...]]:
    """The ids of a response to each prompt."""
    return [response.ids for response in generate(policy, prompts, sampling)]


def packed_logps(policy: Policy, sequences: Sequence[Tokens], tokens_per_pack: int) -> list[torch.Tensor]:
    """Log-probs of the sampled tokens by packs, put back in order: one tensor for each sequence."""
    from hart_lite.models.packing import pack

    parts: dict[tuple[int, int], torch.Tensor] = {}
    for row in pack(sequences, policy.family.positions, tokens_per_pack):
        logps = policy.logps(row)
        for lp, owner, offset in zip(logps, row.owners_N.tolist(), row.offsets_N.tolist(), strict=True):
            assert (owner, offset) not in parts, "scored twice"
            parts[owner, offset] = lp
    lengths = [sum(map(len, tokens.sampled)) for tokens in sequences]
    assert len(parts) == sum(lengths)
    return [torch.stack([parts[n, i] for i in range(length)]) for n, length in enumerate(lengths) if length]
