"""Sequences that begin alike are paid for once: a trie of shared prefixes, and packs of it under a token budget.

A trie node is a run of tokens that all the sequences below it share: the chat header, an image, a question, an
identical crop. Generation walks the trie level by level and branches the cache; the update lays nodes out in one row
in which a token sees its own run and its ancestors' (a tree mask), so that a prefix is paid once in the forward pass
and once in the backward pass.

A shared run ends one token before the first sampled token at the latest: every leaf holds the token that predicts
its first sampled one, and sampled tokens are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, pairwise

import numpy as np
import torch

from hart_lite.errors import HartError
from hart_lite.types import ImageView, Slot, Tokens


@dataclass(frozen=True)
class Node:
    """Tokens `start` to `stop` of sequence `sequence` (and of every other sequence below it)."""

    sequence: int
    start: int
    stop: int
    children: tuple[Node, ...] = ()
    leaf: bool = False  # finishes `sequence`

    def __len__(self) -> int:
        return self.stop - self.start


def trie(sequences: Sequence[Tokens]) -> tuple[Node, ...]:
    """The roots of the shared-prefix trie, in the order of the sequences."""
    views: dict[ImageView, int] = {}
    keys = [_keys(tokens, views) for tokens in sequences]
    limits = [(t.sampled[0].start if t.sampled else len(t)) - 1 for t in sequences]
    return _children(keys, limits, list(range(len(sequences))), 0)


def _keys(tokens: Tokens, views: dict[ImageView, int]) -> np.ndarray:
    """(T,) integers that are equal exactly where the model's input is: ids, and for image slots view and offset."""
    keys = np.array(tokens.ids, dtype=np.int64)
    for slot in tokens.slots:
        number = views.setdefault(slot.view, len(views))
        keys[slot.start : slot.start + slot.length] = -1 - (number << 20) - np.arange(slot.length)
    return keys


def _children(keys: list[np.ndarray], limits: list[int], members: list[int], start: int) -> tuple[Node, ...]:
    """Nodes for the members, which agree on everything before `start`."""
    open_members = [i for i in members if start < limits[i]]
    order = {i: n for n, i in enumerate(members)}
    groups = [[i] for i in members if start >= limits[i]]
    by_key = sorted(open_members, key=lambda i: int(keys[i][start]))
    groups += [list(group) for _, group in groupby(by_key, key=lambda i: int(keys[i][start]))]
    groups.sort(key=lambda group: order[group[0]])
    return tuple(_node(keys, limits, group, start) for group in groups)


def _node(keys: list[np.ndarray], limits: list[int], group: list[int], start: int) -> Node:
    first = group[0]
    if len(group) == 1:
        return Node(first, start, len(keys[first]), leaf=True)
    stop = min(limits[i] for i in group)
    for i in group[1:]:
        differs = np.flatnonzero(keys[i][start:stop] != keys[first][start:stop])
        if len(differs):
            stop = start + int(differs[0])
    return Node(first, start, stop, _children(keys, limits, group, stop))


@dataclass(frozen=True)
class Block:
    """Tokens `start` to `stop` of a row, which attend in one call. `sees_Q_K` says which of the tokens `keys_K` each of
    them sees; None: they see themselves and each the ones before it, as causal attention has it without a mask."""

    start: int
    stop: int
    keys_K: torch.Tensor
    sees_Q_K: torch.Tensor | None

    def to(self, device: torch.device) -> Block:
        sees_Q_K = None if self.sees_Q_K is None else self.sees_Q_K.to(device)
        return Block(self.start, self.stop, self.keys_K.to(device), sees_Q_K)


@dataclass(frozen=True)
class Pack:
    """One row for the model. T tokens, R position rows, S segments, N sampled tokens.

    `segments_T` numbers the trie node of each token; `sees_S_S[q, k]` tells whether segment q sees segment k.
    The hidden state at `predict_N` scores `targets_N`; `owners_N`, `offsets_N` say which sampled token that is:
    the offset-th of sequence `owner`.
    """

    ids_T: torch.Tensor
    positions_R_T: torch.Tensor
    segments_T: torch.Tensor
    sees_S_S: torch.Tensor
    slots: tuple[Slot, ...]
    predict_N: torch.Tensor
    targets_N: torch.Tensor
    owners_N: torch.Tensor
    offsets_N: torch.Tensor
    cuts: tuple[int, ...]  # where blocks begin

    def __len__(self) -> int:
        return len(self.ids_T)

    def mask(self) -> torch.Tensor:
        """(T, T) boolean: a token sees earlier tokens of its own run and of the runs above it."""
        return self.sees_S_S[self.segments_T[:, None], self.segments_T[None, :]].tril_()

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The mask in pieces without most of its empty parts: tokens that attend in one call. The whole mask is never
        made: it grows with the square of the row."""
        places_T, blocks = torch.arange(len(self)), []
        for start, stop in pairwise((*self.cuts, len(self))):
            inside, before = self.segments_T[start:stop], self.segments_T[:stop]
            keys_K = self.sees_S_S[inside.unique()].any(0)[before].nonzero()[:, 0]
            sees_Q_K = self.sees_S_S[inside[:, None], before[keys_K]] & (keys_K <= places_T[start:stop, None])
            causal = torch.equal(sees_Q_K, torch.ones_like(sees_Q_K).tril()) and len(keys_K) == stop - start
            blocks.append(Block(start, stop, keys_K, None if causal else sees_Q_K))
        return tuple(blocks)


def pack(sequences: Sequence[Tokens], positions: Callable[[Tokens], torch.Tensor], tokens_per_pack: int) -> list[Pack]:
    """Lay sequences out in packs of at most `tokens_per_pack` tokens, the largest pack first.

    `positions` is the family's: (R, T) for one whole sequence. A prefix that does not fit together with all its
    samples is repeated in the next pack. Raises `HartError` when one sequence alone exceeds the budget.
    """
    longest = max(map(len, sequences), default=0)
    if longest > tokens_per_pack:
        raise HartError(
            f"a sequence of {longest} tokens does not fit tokens_per_pack = {tokens_per_pack}; "
            f"raise tokens_per_pack, or lower pixels.full, pixels.crop or rollout.max_tokens_*"
        )
    packs, path_costs = [], _paths(trie(sequences))
    chosen: dict[int, Node] = {}  # nodes of the pack being filled, by identity, in row order
    used, batch = 0, []
    for path in path_costs:
        extra = sum(len(node) for node in path if id(node) not in chosen)
        if used + extra > tokens_per_pack and batch:
            packs.append(batch)
            chosen, used, batch = {}, 0, []
            extra = sum(map(len, path))
        chosen.update((id(node), node) for node in path)
        batch.append(path)
        used += extra
    if batch:
        packs.append(batch)
    laid = [_lay_out(sequences, positions, paths) for paths in packs]
    # Largest first: running out of memory shows in the first minute or never.
    return sorted(laid, key=len, reverse=True)


def _paths(roots: Sequence[Node]) -> list[tuple[Node, ...]]:
    """Root-to-leaf paths in depth-first order."""
    out: list[tuple[Node, ...]] = []

    def walk(node: Node, above: tuple[Node, ...]) -> None:
        if node.leaf:
            out.append((*above, node))
        for child in node.children:
            walk(child, (*above, node))

    for root in roots:
        walk(root, ())
    return out


def _lay_out(
    sequences: Sequence[Tokens], positions: Callable[[Tokens], torch.Tensor], paths: list[tuple[Node, ...]]
) -> Pack:
    numbers: dict[int, int] = {}  # node identity -> segment
    parents: list[int] = []
    ids, rows, segments, slots = [], [], [], []
    predict, targets, owners, offsets = [], [], [], []
    for path in paths:
        parent = -1
        leaf = path[-1]
        rotary = positions(sequences[leaf.sequence])
        for node in path:
            if id(node) not in numbers:
                numbers[id(node)] = len(parents)
                parents.append(parent)
                tokens, at = sequences[node.sequence], len(ids)
                slots += [
                    Slot(s.start - node.start + at, s.length, s.view)
                    for s in tokens.slots
                    if node.start <= s.start < node.stop
                ]
                ids += tokens.ids[node.start : node.stop]
                rows.append(rotary[:, node.start : node.stop])
                segments += [numbers[id(node)]] * len(node)
            parent = numbers[id(node)]
        shift, offset = len(ids) - leaf.stop, 0  # place in the row minus place in the sequence, inside the leaf
        for start, stop, _ in sequences[leaf.sequence].sampled:
            predict += range(start - 1 + shift, stop - 1 + shift)
            targets += sequences[leaf.sequence].ids[start:stop]
            owners += [leaf.sequence] * (stop - start)
            offsets += range(offset, offset + stop - start)
            offset += stop - start
    return Pack(
        ids_T=torch.tensor(ids),
        positions_R_T=torch.cat(rows, dim=1),
        segments_T=torch.tensor(segments),
        sees_S_S=_ancestors(parents),
        slots=tuple(slots),
        predict_N=torch.tensor(predict, dtype=torch.long),
        targets_N=torch.tensor(targets, dtype=torch.long),
        owners_N=torch.tensor(owners, dtype=torch.long),
        offsets_N=torch.tensor(offsets, dtype=torch.long),
        cuts=_cuts(parents, torch.bincount(torch.tensor(segments)).tolist()),
    )


def _cuts(parents: list[int], lengths: list[int]) -> tuple[int, ...]:
    """Where the blocks of a row begin, from each segment's parent and tokens.

    A run that others share attends on its own. Its branches do so together, or each with a copy of the keys above it:
    the first computes what they are to each other in vain, the second takes memory. They part where they are on average
    at least a third as long as what each would repeat.
    """
    weights = list(lengths)  # tokens of a segment and all below it
    for segment in reversed(range(len(parents))):
        if parents[segment] >= 0:
            weights[parents[segment]] += weights[segment]
    starts = [0, *accumulate(lengths)]
    cuts = []

    def walk(segments: list[int], above: int) -> None:
        for segment in segments:
            cuts.append(starts[segment])
            below = [child for child, parent in enumerate(parents) if parent == segment]
            path = above + lengths[segment]
            if below and 3 * (weights[segment] - lengths[segment]) >= path * len(below):
                walk(below, path)
            elif below:
                cuts.append(starts[below[0]])

    walk([segment for segment, parent in enumerate(parents) if parent < 0], 0)
    return tuple(cuts)


def _ancestors(parents: list[int]) -> torch.Tensor:
    """(S, S) boolean: row s marks s and everything above it. Parents come before their children."""
    sees = torch.eye(len(parents), dtype=torch.bool)
    for segment, parent in enumerate(parents):
        if parent >= 0:
            sees[segment] |= sees[parent]
    return sees
