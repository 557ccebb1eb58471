"""Attention of sampled tokens over runs that many rows share.

A run of tokens that many rows have in common keeps its keys and values once. A row that samples a token attends to
every run above it and to its own samples: the queries of all rows under a run meet its keys in one matrix product, so
the cache of a prefix is read once for a group and never copied to its samples.

Scores are float32: keys of Qwen2 and Qwen2.5 are so large that rounding q.k to 16 bits before the softmax gives another
distribution than the one that is trained, and passes float16's range (huggingface/transformers #33317, QwenLM/Qwen3
#868).
"""

from __future__ import annotations

import torch
from torch import Tensor

HAS_OUT_DTYPE = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 8)  # of torch.bmm, on CUDA


def float32_product(a: Tensor, b: Tensor) -> Tensor:
    """(.., M, K) @ (.., K, N) in float32, whatever the precision of the factors."""
    if a.dtype == torch.float32:
        return a @ b
    if a.device.type != "cpu" and HAS_OUT_DTYPE:
        out = torch.bmm(a.flatten(0, -3), b.flatten(0, -3), out_dtype=torch.float32)
        return out.unflatten(0, a.shape[:-2])
    return a.float() @ b.float()


class Level:
    """Runs side by side: n of them, right-padded to T tokens; N rows stand under them, row r under run `rows_N[r]`."""

    def __init__(self, real_n_T: Tensor, rows_N: Tensor, keys: list[Tensor], values: list[Tensor]) -> None:
        """Keys and values by layer, (n, heads, T, D); `real_n_T` is False at padding."""
        self.real_n_T = real_n_T
        self.padded = not bool(real_n_T.all())
        self.keys, self.values = keys, values
        self.assign(rows_N)

    def assign(self, rows_N: Tensor) -> None:
        """Say which run each row stands under, and find each row's place in an (n x most) grid of rows by run."""
        n = len(self.real_n_T)
        counts = torch.bincount(rows_N, minlength=n)
        order = rows_N.argsort(stable=True)
        nth = torch.empty_like(rows_N)
        nth[order] = torch.arange(len(rows_N), device=rows_N.device) - (counts.cumsum(0) - counts)[rows_N[order]]
        self.rows_N, self.most = rows_N, int(counts.max())
        self.place_N = rows_N * self.most + nth
        places = torch.arange(n * self.most, device=rows_N.device)
        self.in_place = len(rows_N) == len(places) and bool((self.place_N == places).all())
        self.hidden_N_1_1_T = ~self.real_n_T[rows_N][:, None, None] if self.padded else None

    def keep(self, rows: Tensor) -> None:
        """The runs stay, for the rows that go on."""
        self.assign(self.rows_N[rows])

    def scores(self, layer: int, query: Tensor) -> Tensor:
        """(N, heads, R, T) float32 from (N, heads, R, D): R query heads share a key head."""
        products = float32_product(self._by_run(query), self.keys[layer].mT)
        scores = self._by_row(products, query.shape)
        return scores if self.hidden_N_1_1_T is None else scores.masked_fill(self.hidden_N_1_1_T, -torch.inf)

    def weighted(self, layer: int, weights: Tensor) -> Tensor:
        """(N, heads, R, D): the values under weights (N, heads, R, T)."""
        return self._by_row(self._by_run(weights) @ self.values[layer], weights.shape)

    def _by_run(self, rows: Tensor) -> Tensor:
        """(N, heads, R, X) -> (n, heads, most * R, X): all queries that a run's keys are to meet."""
        n, (_, heads, repeat, width) = len(self.real_n_T), rows.shape
        if not self.in_place:
            rows = rows.new_zeros(n * self.most, heads, repeat, width).index_copy_(0, self.place_N, rows)
        if self.most == 1:
            return rows
        grid = rows.view(n, self.most, heads, repeat, width).transpose(1, 2)
        return grid.reshape(n, heads, self.most * repeat, width)

    def _by_row(self, runs: Tensor, shape: torch.Size) -> Tensor:
        n, (_, heads, repeat, _) = len(self.real_n_T), shape
        if self.most > 1:
            runs = runs.view(n, heads, self.most, repeat, -1).transpose(1, 2).reshape(n * self.most, heads, repeat, -1)
        return runs if self.in_place else runs[self.place_N]


class Samples:
    """What each of N rows samples: runs of their own that grow by a token at a time, in room that is allocated once.

    Where a graph replays the pass of one token, no shape and no address may change with the token: `at` is then written
    to in its place, and the pass looks at a multiple of `reach` tokens, of which those to come are hidden.
    """

    def __init__(self, rows: int, room: int, reach: int, like: list[Tensor]) -> None:
        """`like`: keys of a level, by layer, for shape, precision and device."""
        self.room, self.reach, self.length = room, reach, 0
        device = like[0].device
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.places_T = torch.arange(room, device=device)
        self.to_come_T = torch.zeros(room, dtype=torch.bool, device=device)
        # Zeros: a token to come has no weight, but none of what is not a number would still be that.
        self.keys, self.values = ([k.new_zeros(rows, k.shape[1], room, k.shape[3]) for k in like] for _ in range(2))

    def go_to(self, step: int) -> int:
        """The next pass writes the token of this step. Returns how many tokens it looks at."""
        self.at.fill_(step)
        self.length = min((step // self.reach + 1) * self.reach, self.room)
        if self.reach > 1:
            torch.gt(self.places_T, step, out=self.to_come_T)
        return self.length

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """(N, heads, 1, D) of one token a row."""
        self.keys[layer].index_copy_(2, self.at, keys)
        self.values[layer].index_copy_(2, self.at, values)

    def scores(self, layer: int, query: Tensor) -> Tensor:
        scores = float32_product(query, self.keys[layer][:, :, : self.length].mT)
        return scores if self.reach == 1 else scores.masked_fill(self.to_come_T[: self.length], -torch.inf)

    def weighted(self, layer: int, weights: Tensor) -> Tensor:
        return weights @ self.values[layer][:, :, : self.length]

    def keep(self, rows: Tensor) -> None:
        """What rows that ended had sampled is forgotten."""
        for store in (self.keys, self.values):
            for layer in range(len(store)):
                store[layer] = store[layer][rows]


class Branches:
    """The cache of a batch of rows: levels of shared runs, from the roots down, and what each row samples."""

    def __init__(self, levels: list[Level], room: int, reach: int = 1) -> None:
        """`room`: tokens that a row may sample."""
        self.levels = levels
        self.samples = Samples(len(levels[0].rows_N), room, reach, levels[0].keys)

    def go_to(self, step: int) -> int:
        return self.samples.go_to(step)

    def keep(self, rows: Tensor) -> None:
        """Rows that ended leave."""
        for level in (*self.levels, self.samples):
            level.keep(rows)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """(N, 1, query heads, D) from one token a row, as the decoder calls it."""
        n, _, heads, width = q.shape
        key_heads = k.shape[2]
        self.samples.write(layer, k.view(n, key_heads, 1, width), v.view(n, key_heads, 1, width))
        query = q.view(n, key_heads, heads // key_heads, width)
        parts = (*self.levels, self.samples)
        scores = [part.scores(layer, query) for part in parts]
        weights = (torch.cat(scores, dim=-1) * scale).softmax(-1).to(q.dtype)
        shares = weights.split([s.shape[-1] for s in scores], dim=-1)
        mixed = sum(part.weighted(layer, share) for part, share in zip(parts, shares, strict=True))
        return mixed.reshape(n, 1, heads, width)
