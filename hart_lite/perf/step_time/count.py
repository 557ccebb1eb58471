"""What a step has to compute, counted in tokens: the limit that a measured ratio is held against.

A token's unit of work is one pass through the layers of the language model. A backward pass counts as one pass: the
base is frozen, so no gradient of its weights is computed. What grows with the square of a length, attention, is counted
apart, in the same unit; head, Python and optimizer are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from hart_lite.inference.protocols import hart
from hart_lite.models.packing import Node, pack, trie
from hart_lite.perf.step_time.models import Workload
from hart_lite.types import Example, Group, Tokens


@dataclass(frozen=True)
class Count:
    """Tokens that pass through the language model in each phase, and image tokens that the vision tower encodes; pairs
    of tokens and of image patches of which one sees the other, in one layer."""

    rollout: int
    update: int  # as many as the reference's
    images: int
    pairs: int  # of the update
    patch_pairs: int  # of the tower's layers that see the whole image

    def work(self, work: Workload) -> float:
        """Passes of one token: rollout, reference, forward and backward; one forward more where it is recomputed."""
        passes = 3 + work.preset.gradient_checkpointing
        return self.rollout + passes * self.update + image_share(work) * self.images

    def attention(self, work: Workload) -> float:
        """The pairs, in passes of one token. A backward pass costs attention two of its forward passes, and the
        rollout's prompts have about the pairs of the update."""
        passes = 5 + work.preset.gradient_checkpointing
        language = passes * self.pairs * work.dims.layers * work.dims.q_width
        tower = self.patch_pairs * len(work.preset.vision["fullatt_block_indexes"]) * work.dims.vision.hidden
        return 2 * (language + tower) / work.dims.linears


def image_share(work: Workload) -> float:
    """Work of the vision tower for one image token, without what its patches see of each other."""
    return work.dims.vision.patches * work.dims.tower / work.dims.linears


def stock_count(work: Workload, example: Example) -> Count:
    """Every sample with its prompt and its own copy of the image, which each of the three phases encodes."""
    prompt, samples = work.runner.prompt(example, hart.full), work.preset.samples
    length, encoded = len(prompt) + work.preset.response, [slot.length for slot in prompt.slots] * 3 * samples
    tokens, pairs = samples * length, samples * length * (length + 1) // 2
    return Count(tokens, tokens, sum(encoded), pairs, _patch_pairs(work, encoded))


def our_count(work: Workload, groups: Sequence[Group]) -> Count:
    """A prefix once in each turn of the rollout and once in the update, an image once in a step."""
    turns = [turn for group in groups for t in group.trajectories for turn in t.turns]
    rollout = sum(len(turn.response) for turn in turns)
    for kind in {turn.kind for turn in turns if turn.response}:
        rollout += size(trie([turn.prompt for turn in turns if turn.kind == kind]))
    asked = [(turn.prompt, g.example) for g in groups for t in g.trajectories for turn in t.turns if not turn.response]
    scored = work.runner.scorer.sequences([prompt for prompt, _ in asked], [example for _, example in asked])
    rollout += size(trie([tokens for own in scored for tokens in own]))
    encoded = {slot.view: slot.length for turn in turns for slot in turn.prompt.slots}.values()
    packs = pack(sequences_of(groups), work.runner.policy.family.positions, work.tokens_per_pack)
    pairs = sum(packed.tree(torch.device("cpu")).pairs for packed in packs)
    return Count(rollout, sum(map(len, packs)), sum(encoded), pairs, _patch_pairs(work, encoded))


def _patch_pairs(work: Workload, images: Iterable[int]) -> int:
    return sum((work.dims.vision.patches * tokens) ** 2 for tokens in images)


def sequences_of(groups: Sequence[Group]) -> list[Tokens]:
    return [s for group in groups for t in group.trajectories for s in t.sequences]


def size(nodes: Sequence[Node]) -> int:
    """Tokens of a trie."""
    return sum(len(node) + size(node.children) for node in nodes)
