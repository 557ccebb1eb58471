"""What a step has to compute, counted in tokens: the limit that a measured ratio is held against.

A token's unit of work is one pass through the layers of the language model. A backward pass counts as one pass: the
base is frozen, so no gradient of its weights is computed. Attention, head, Python and optimizer are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hart_lite import loops
from hart_lite.bench.models import Workload
from hart_lite.packing import Node, pack, trie
from hart_lite.types import Example, Group, Tokens


@dataclass(frozen=True)
class Count:
    """Tokens that pass through the language model in each phase, and image tokens that the vision tower encodes."""

    rollout: int
    update: int  # as many as the reference's
    images: int

    def work(self, work: Workload) -> float:
        """Passes of one token: rollout, reference, forward and backward; one forward more where it is recomputed."""
        passes = 3 + work.preset.gradient_checkpointing
        return self.rollout + passes * self.update + image_share(work) * self.images


def image_share(work: Workload) -> float:
    """Work of the vision tower for one image token."""
    return work.dims.vision.patches * work.dims.tower / work.dims.linears


def stock_count(work: Workload, example: Example) -> Count:
    """Every sample with its prompt and its own copy of the image, which each of the three phases encodes."""
    full = work.runner.full_views(example)
    samples, prompt = work.preset.samples, work.runner.policy.family.chat(loops.direct_content(example, full))
    whole = samples * (len(prompt) + work.preset.response)
    return Count(whole, whole, 3 * samples * sum(slot.length for slot in prompt.slots))


def our_count(work: Workload, groups: Sequence[Group]) -> Count:
    """A prefix once in each turn of the rollout and once in the update, an image once in a step."""
    turns = [turn for group in groups for t in group.trajectories for turn in t.turns]
    rollout = sum(len(turn.response) for turn in turns)
    for kind in {turn.kind for turn in turns}:
        rollout += size(trie([turn.prompt for turn in turns if turn.kind == kind]))
    views = {slot.view: slot.length for turn in turns for slot in turn.prompt.slots}
    return Count(rollout, packed_tokens(work, sequences_of(groups)), sum(views.values()))


def sequences_of(groups: Sequence[Group]) -> list[Tokens]:
    return [s for group in groups for t in group.trajectories for s in t.sequences]


def packed_tokens(work: Workload, sequences: Sequence[Tokens]) -> int:
    return sum(map(len, pack(sequences, work.runner.policy.family.positions, work.tokens_per_pack)))


def size(nodes: Sequence[Node]) -> int:
    """Tokens of a trie."""
    return sum(len(node) + size(node.children) for node in nodes)
