"""Sequences that begin alike are paid for once: a trie of shared prefixes, and packs of it under a token budget.

A trie node is a run of tokens that all the sequences below it share: the chat header, an image, a question, an
identical crop. Generation walks the trie level by level and branches the cache; the update lays nodes out in one row
in which a token sees its own run and its ancestors' (a tree mask), so that a prefix is paid once in the forward pass
and once in the backward pass.

A shared run ends one token before the first sampled token at the latest: every leaf holds the token that predicts
its first sampled one, and sampled tokens are never merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import numpy as np
import torch

from hart_lite.errors import HartError
from hart_lite.models.tree_attention import Tree
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
class Pack:
    """One row for the model. T tokens, R position rows, N sampled tokens.

    `runs` are the lengths of the trie's nodes, one after the other, and `parents` the run above each, -1 for none. The
    hidden state at `predict_N` scores `targets_N`, which were drawn with the log-probs `drawn_N` (NaN where these are
    not known); `owners_N`, `offsets_N` say which sampled token that is: the offset-th of sequence `owner`.
    """

    ids_T: torch.Tensor
    positions_R_T: torch.Tensor
    runs: tuple[int, ...]
    parents: tuple[int, ...]
    slots: tuple[Slot, ...]
    predict_N: torch.Tensor
    targets_N: torch.Tensor
    drawn_N: torch.Tensor
    owners_N: torch.Tensor
    offsets_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids_T)

    @cached_property
    def above(self) -> list[list[range]]:
        """For each run the places of the runs above it, from the root down."""
        starts = [0, *accumulate(self.runs)]
        out: list[list[range]] = []
        for parent in self.parents:  # a parent comes before its children
            out.append([] if parent < 0 else [*out[parent], range(starts[parent], starts[parent + 1])])
        return out

    def tree(self, device: torch.device) -> Tree:
        """What attention reads of the pack; made once for each device, since two passes want it."""
        if device not in self._trees:
            self._trees[device] = Tree.of(self.runs, self.above, device)
        return self._trees[device]

    @cached_property
    def _trees(self) -> dict[torch.device, Tree]:
        return {}


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
    ids, rows, lengths, slots = [], [], [], []
    predict, targets, drawn, owners, offsets = [], [], [], [], []
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
                lengths.append(len(node))
            parent = numbers[id(node)]
        shift, offset = len(ids) - leaf.stop, 0  # place in the row minus place in the sequence, inside the leaf
        for span in sequences[leaf.sequence].sampled:
            predict += range(span.start - 1 + shift, span.stop - 1 + shift)
            targets += sequences[leaf.sequence].ids[span.start : span.stop]
            drawn += span.logps or [math.nan] * len(span)
            owners += [leaf.sequence] * len(span)
            offsets += range(offset, offset + len(span))
            offset += len(span)
    return Pack(
        ids_T=torch.tensor(ids),
        positions_R_T=torch.cat(rows, dim=1),
        runs=tuple(lengths),
        parents=tuple(parents),
        slots=tuple(slots),
        predict_N=torch.tensor(predict, dtype=torch.long),
        targets_N=torch.tensor(targets, dtype=torch.long),
        drawn_N=torch.tensor(drawn, dtype=torch.float32),
        owners_N=torch.tensor(owners, dtype=torch.long),
        offsets_N=torch.tensor(offsets, dtype=torch.long),
    )
