"""Attention for branches of shared runs, registered with transformers as `hart_lite`.

A run of tokens that many rows share has its keys and values kept once. A row that samples a token attends to every run
above it and to its own samples: the queries of all rows under a run meet its keys in one matrix product, so the cache
of a prefix is read once for a group and never copied to its samples.

Packs are attended to block by block: most of a tree's mask is empty, and a block holds little of that. Without branches
and blocks the function is the library's SDPA, which SFT uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hart_lite.models.packing import Block

NAME = "hart_lite"


class Level:
    """Runs side by side: n of them, right-padded to T tokens; N rows hang under them, row r under run `rows_N[r]`."""

    def __init__(self, real_n_T: Tensor) -> None:
        self.real_n_T = real_n_T
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
        """(n, heads, T, D) of the fed runs."""
        self.keys[layer], self.values[layer] = keys, values

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """(n, heads, T, D) keys and values."""
        return self.keys[layer], self.values[layer]

    def hidden(self) -> Tensor | None:
        """(N, T) True at keys that a row must not see, or None."""
        return ~self.real_n_T[self.rows_N] if self.padded else None

    def keep(self, rows: Tensor) -> None:
        """The runs stay, for the rows that go on."""
        self.hang(self.rows_N[rows])

    def scores(self, layer: int, query: Tensor) -> Tensor:
        """(N, heads, R, T) from (N, heads, R, D): R query heads share a key head."""
        scores = self._by_row(self._by_run(query) @ self.read(layer)[0].transpose(-1, -2), query.shape)
        hidden = self.hidden()
        return scores if hidden is None else scores.masked_fill(hidden[:, None, None], -torch.inf)

    def mix(self, layer: int, weights: Tensor) -> Tensor:
        """(N, heads, R, D): the values under weights (N, heads, R, T)."""
        return self._by_row(self._by_run(weights) @ self.read(layer)[1], weights.shape)

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


class Samples(Level):
    """What each row samples: runs of their own that grow by a token at a time, in room that is allocated once.

    Where a graph replays the pass of one token, no shape and no address may change with the token: `at` is then written
    to in its place, and the pass looks at a multiple of `reach` tokens, of which those to come are hidden.
    """

    def __init__(self, rows: int, room: int, reach: int, device: torch.device) -> None:
        super().__init__(torch.ones(rows, 1, dtype=torch.bool, device=device))
        self.room, self.reach, self.length = room, reach, 0
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.places_T = torch.arange(room, device=device)
        self.to_come_T = torch.zeros(room, dtype=torch.bool, device=device)

    def go_to(self, step: int) -> int:
        """The next pass writes the token of this step. Returns how many tokens it looks at."""
        self.at.fill_(step)
        self.length = min((step // self.reach + 1) * self.reach, self.room)
        if self.reach > 1:
            torch.gt(self.places_T, step, out=self.to_come_T)
        return self.length

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """(N, heads, 1, D) of one token a row."""
        if layer not in self.keys:
            shape = (*keys.shape[:2], self.room, keys.shape[-1])
            # Zeros: a token to come has no weight, but none of what is not a number would still be that.
            self.keys[layer], self.values[layer] = keys.new_zeros(shape), values.new_zeros(shape)
        self.keys[layer].index_copy_(2, self.at, keys)
        self.values[layer].index_copy_(2, self.at, values)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]

    def hidden(self) -> Tensor | None:
        return self.to_come_T[None, : self.length] if self.reach > 1 else None

    def keep(self, rows: Tensor) -> None:
        """What rows that ended had sampled is forgotten."""
        self.real_n_T = self.real_n_T[rows]
        for store in (self.keys, self.values):
            store.update({layer: tensor[rows] for layer, tensor in store.items()})
        self.hang(torch.arange(len(rows), device=rows.device))


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

    def part(self, rows: slice) -> Branches:
        """Some of the rows, which are to be fed apart from the others. They share what is above them."""
        part = Branches()
        for level in self.levels:
            seen = copy(level)
            seen.hang(level.rows_N[rows])
            part.levels.append(seen)
        return part

    def join(self, parts: Sequence[Branches]) -> None:
        """The parts' last levels, side by side, become one."""
        fed = [part.levels.pop() for part in parts]
        level = fed[0] if len(fed) == 1 else Level(torch.cat([runs.real_n_T for runs in fed]))
        for layer in list(fed[0].keys) if len(fed) > 1 else ():
            for name in ("keys", "values"):  # one at a time: what is joined is held twice
                getattr(level, name)[layer] = torch.cat([getattr(runs, name).pop(layer) for runs in fed])
        self.levels.append(level)

    def sample(self, room: int, reach: int = 1) -> None:
        """From now on every row adds one token at a time, at most `room`."""
        rows = self.levels[-1].rows_N
        self.samples = Samples(len(rows), room, reach, rows.device)
        self.levels.append(self.samples)

    def reach(self, step: int) -> int:
        """The next pass feeds every row its sample of this step. Returns how many of its samples it looks at."""
        return self.samples.go_to(step)

    def keep(self, rows: Tensor) -> None:
        """Rows that ended leave."""
        for level in self.levels:
            level.keep(rows)

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
