"""What the vision tower of the tiny base learns alone, before there are words: throw-away heads and their losses.

Per token of a scene: is there a thing, and its colour, shape, box and (big ones) character. Of a crop: the same without
the box. What is seen is read against the language model's own embeddings, so that both speak one code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from hart_lite.toy.glyphs import GLYPHS
from hart_lite.toy.scenes import COLOURS, SHAPES, Scene, Thing

SIDE = 112  # of a scene as the model sees it, in pixels: 4 x 4 tokens


class Sight(nn.ModuleDict):
    """`words` is the (V, H) embedding matrix, trained elsewhere."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: nn.Parameter) -> None:
        super().__init__({"present": nn.Linear(128, 1), "box": nn.Linear(128, 4 * 128)})
        self.tokenizer = tokenizer
        self.words = [words]  # in a list: not a parameter of this module

    def scenes(self, scenes: list[Scene], features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Losses by name, from one (16, H) tensor of features for each scene."""
        hidden = torch.stack(features)  # (B, 16, H)
        present = torch.zeros(hidden.shape[:2])
        picked, colour, shape, box, big, glyph = [], [], [], [], [], []
        for b, scene in enumerate(scenes):
            scale = SIDE / scene.world.size
            for cell in range(16):
                thing = thing_in_cell(scene, cell, scale)
                if thing is None:
                    continue
                present[b, cell] = 1
                picked.append((b, cell))
                colour.append(list(COLOURS).index(thing.colour))
                shape.append(SHAPES.index(thing.shape))
                box.append([round(v * scale) for v in thing.box.xyxy])
                if thing.big:
                    big.append(len(picked) - 1)
                    glyph.append(GLYPHS.index(thing.glyph))
        rows, cells = zip(*picked, strict=True)
        at = hidden[list(rows), list(cells)]
        losses = {
            "present": F.binary_cross_entropy_with_logits(self["present"](hidden).squeeze(-1), present),
            "colour": self._word_loss(at, [f" {c}" for c in COLOURS], colour),
            "shape": self._word_loss(at, [f" {s}" for s in SHAPES], shape),
        }
        targets = torch.tensor(box).clamp(0, SIDE)
        near = torch.exp(-((targets[..., None] - torch.arange(SIDE + 1)) ** 2) / 2)
        near = near / near.sum(-1, keepdim=True)
        logits = self._number_logits(self["box"](at).unflatten(-1, (4, -1)))
        losses["box"] = -(near * logits.log_softmax(-1)).sum(-1).mean()
        if big:
            losses["glyph"] = self._word_loss(at[big], GLYPHS, glyph)
        return losses

    def crops(self, things: list[Thing], features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Losses by name, from one (tokens, H) tensor of features for the crop of each thing."""
        pooled = torch.stack([f.mean(0) for f in features])
        colours, shapes = [f" {c}" for c in COLOURS], [f" {s}" for s in SHAPES]
        return {
            "crop_colour": self._word_loss(pooled, colours, [list(COLOURS).index(t.colour) for t in things]),
            "crop_shape": self._word_loss(pooled, shapes, [SHAPES.index(t.shape) for t in things]),
            "crop_glyph": self._word_loss(pooled, GLYPHS, [GLYPHS.index(t.glyph) for t in things]),
        }

    def _number_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        ids = [self.tokenizer(str(n))["input_ids"][0] for n in range(SIDE + 1)]
        return hidden @ self.words[0][ids].T * 1.5

    def _word_loss(self, hidden: torch.Tensor, words: Sequence[str], labels: list[int]) -> torch.Tensor:
        """A red thing's token holds the embedding of " red"."""
        ids = [self.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
        return F.cross_entropy(hidden @ self.words[0][ids].T, torch.tensor(labels))


def thing_in_cell(scene: Scene, cell: int, scale: float) -> Thing | None:
    """The thing that fills most of one of the 4 x 4 token cells, if it fills enough of it to be seen there."""
    x, y = cell % 4 * 28, cell // 4 * 28
    best, most = None, 0.0
    for thing in scene.things:
        x1, y1, x2, y2 = (v * scale for v in thing.box.xyxy)
        overlap = max(0, min(x2, x + 28) - max(x1, x)) * max(0, min(y2, y + 28) - max(y1, y))
        share = overlap / min(784, (x2 - x1) * (y2 - y1))
        if share > max(most, 0.35):
            best, most = thing, share
    return best
