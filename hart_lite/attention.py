"""Attention for branches of shared runs, registered with transformers as `hart_lite`.

A run of tokens that many rows share has its keys and values kept once. A row that samples a token attends to every run
above it and to its own samples: the queries of all rows under a run meet its keys in one matrix product, so the cache
of a prefix is read once for a group and never copied to its samples.

Packs are attended to block by block: most of a tree's mask is empty, and a block holds little of that. Without branches
and blocks the function is the library's SDPA, which SFT uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hart_lite.packing import Block

NAME = "hart_lite"


class Level:
    """Runs side by side: n of them, right-padded to T tokens; N rows hang under them, row r under run `rows_N[r]`."""

    def __init__(self, real_n_T: Tensor, room: int = 0) -> None:
        self.real_n_T, self.room = real_n_T, room
        self.length = 0 if room else real_n_T.shape[1]
        self.padded = not bool(real_n_T.all())
        self.keys: dict[int, Tensor] = {}  # by layer: (n, heads, T, D)
        self.values: dict[int, Tensor] = {}
        self.hang(torch.arange(len(real_n_T), device=real_n_T.device))

    def hang(self, rows_N: Tensor) -> None:
        """Say which run each row hangs under, and find each row's place in an (n x most) grid of rows by run."""
        n = len(self.real_n_T)
        counts = torch.bincount(rows_N, minlength=n)
        order = rows_N.argsort(stable=True)
        nth = torch.empty_like(rows_N)
        nth[order] = torch.arange(len(rows_N), device=rows_N.device) - (counts.cumsum(0) - counts)[rows_N[order]]
        self.rows_N, self.most = rows_N, int(counts.max())
        self.place_N = rows_N * self.most + nth
        places = torch.arange(n * self.most, device=rows_N.device)
        self.even = len(rows_N) == len(places) and bool((self.place_N == places).all())

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """(n, heads, T, D) of a fed run, or of one sampled token into the room kept for samples."""
        if not self.room:
            self.keys[layer], self.values[layer] = keys, values
            return
        if layer not in self.keys:
            shape = (*keys.shape[:2], self.room, keys.shape[-1])
            self.keys[layer], self.values[layer] = keys.new_empty(shape), values.new_empty(shape)
        self.keys[layer][:, :, self.length - 1] = keys[:, :, 0]
        self.values[layer][:, :, self.length - 1] = values[:, :, 0]

    def drop(self, kept: Tensor) -> None:
        """Of samples, forget those of rows that ended."""
        self.real_n_T = self.real_n_T[kept]
        for store in (self.keys, self.values):
            store.update({layer: tensor[kept] for layer, tensor in store.items()})
        self.hang(torch.arange(len(kept), device=kept.device))

    def scores(self, layer: int, query: Tensor) -> Tensor:
        """(N, heads, R, T) from (N, heads, R, D): R query heads share a key head."""
        keys = self.keys[layer][:, :, : self.length]
        scores = self._by_row(self._by_run(query) @ keys.transpose(-1, -2), query.shape)
        if self.padded:
            scores = scores.masked_fill(~self.real_n_T[self.rows_N][:, None, None], -torch.inf)
        return scores

    def mix(self, layer: int, weights: Tensor) -> Tensor:
        """(N, heads, R, D): the values under weights (N, heads, R, T)."""
        return self._by_row(self._by_run(weights) @ self.values[layer][:, :, : self.length], weights.shape)

    def _by_run(self, rows: Tensor) -> Tensor:
        """(N, heads, R, X) -> (n, heads, most * R, X): all queries that a run's keys are to meet."""
        n, (_, heads, repeat, width) = len(self.real_n_T), rows.shape
        if not self.even:
            rows = rows.new_zeros(n * self.most, heads, repeat, width).index_copy_(0, self.place_N, rows)
        if self.most == 1:
            return rows
        grid = rows.view(n, self.most, heads, repeat, width).transpose(1, 2)
        return grid.reshape(n, heads, self.most * repeat, width)

    def _by_row(self, runs: Tensor, shape: torch.Size) -> Tensor:
        n, (_, heads, repeat, _) = len(self.real_n_T), shape
        if self.most > 1:
            runs = runs.view(n, heads, self.most, repeat, -1).transpose(1, 2).reshape(n * self.most, heads, repeat, -1)
        return runs if self.even else runs[self.place_N]


class Branches:
    """The cache of a trie: levels of runs, from the roots to what each row samples."""

    def __init__(self) -> None:
        self.levels: list[Level] = []

    def feed(self, real_n_T: Tensor) -> None:
        """The next forward pass feeds a run to every row; `real_n_T` is False at padding."""
        self.levels.append(Level(real_n_T))

    def branch(self, parents_N: Tensor) -> None:
        """Every row becomes the rows that name it as their parent. Nothing is copied."""
        for level in self.levels:
            level.hang(level.rows_N[parents_N])

    def sample(self, room: int) -> None:
        """From now on every row adds one token at a time, at most `room`."""
        rows = self.levels[-1].rows_N
        self.levels.append(Level(torch.ones(len(rows), 1, dtype=torch.bool, device=rows.device), room))

    def keep(self, rows: Tensor) -> None:
        """Rows that ended leave."""
        for level in self.levels[:-1]:
            level.hang(level.rows_N[rows])
        self.levels[-1].drop(rows)

    def seen(self) -> Tensor:
        """(N, K) which keys above the last level are real, for each row."""
        last = self.levels[-1].rows_N
        above = [level.real_n_T[level.rows_N] for level in self.levels[:-1]]
        return torch.cat(above, dim=1) if above else torch.ones(len(last), 0, dtype=torch.bool, device=last.device)

    def lay_out(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of every row in full, for one layer of a pass that feeds runs."""
        chosen = [(level.keys[layer][level.rows_N], level.values[layer][level.rows_N]) for level in self.levels]
        keys, values = zip(*chosen, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def attend(self, layer: int, query: Tensor, scaling: float) -> Tensor:
        """(N, 1, query heads, D) from one query a row: (N, query heads, 1, D)."""
        n, heads, _, width = query.shape
        key_heads = self.levels[0].keys[layer].shape[1]
        query = query.view(n, key_heads, heads // key_heads, width)
        scores = [level.scores(layer, query) for level in self.levels]
        weights = (torch.cat(scores, dim=-1).float() * scaling).softmax(-1).to(query.dtype)
        parts = weights.split([s.shape[-1] for s in scores], dim=-1)
        mixed = sum(level.mix(layer, part) for level, part in zip(self.levels, parts, strict=True))
        return mixed.reshape(n, 1, heads, width)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    branches: Branches | None = None,
    blocks: Sequence[Block] = (),
    **options,
) -> tuple[Tensor, None]:
    """As the library calls it: (N, heads, T, D) queries, (N, key heads, T, D) keys and values of the new tokens.

    With `branches`, the new tokens are added to their last level and the levels above are attended to as well. With
    `blocks`, the tokens are a pack, and its blocks say what they see.
    """
    if blocks:
        outs = []
        for block in blocks:
            queries, seen = query[:, :, block.start : block.stop], (key[:, :, block.keys_K], value[:, :, block.keys_K])
            mask = None if block.sees_Q_K is None else block.sees_Q_K[None, None]
            outs.append(sdpa_attention_forward(module, queries, *seen, mask, **options)[0])
        return torch.cat(outs, dim=1), None
    if branches is not None:
        branches.levels[-1].write(module.layer_idx, key, value)
        if query.shape[2] == 1:
            return branches.attend(module.layer_idx, query, options["scaling"]), None
        key, value = branches.lay_out(module.layer_idx)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
