"""Sampling with shared prefixes: each run of the prompts' trie is prefilled once, then its cache is branched."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from hart_lite.packing import Node, trie
from hart_lite.types import Slot, Tokens

if TYPE_CHECKING:
    from hart_lite.policy import Policy


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy.

    A draw follows from `seed` and the row's number alone: not from what else is in the batch, nor from when other rows
    end. `rows` numbers the prompts; without it they count from 0.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    rows: tuple[int, ...] | None = None

    def uniforms(self, n: int) -> torch.Tensor:
        """(n, max_tokens) numbers in [0, 1), a stream of its own for each row."""
        streams = []
        for row in self.rows if self.rows is not None else range(n):
            seed = random.Random(f"{self.seed}/{row}").getrandbits(63)
            streams.append(torch.rand(self.max_tokens, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(streams)


@dataclass
class _Rows:
    """A batch of cache rows: keys seen so far, which of them are real, and where each row stands.

    valid_N_K is False at padding. last_N_H is the hidden state at each row's last real token.
    """

    cache: DynamicCache
    valid_N_K: torch.Tensor
    last_N_H: torch.Tensor
    position_N: torch.Tensor  # rotary position of the next token (text: the same in every row)

    def select(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.valid_N_K, self.last_N_H = self.valid_N_K[rows], self.last_N_H[rows]
        self.position_N = self.position_N[rows]


def generate(policy: Policy, prompts: Sequence[Tokens], sampling: Sampling) -> list[tuple[int, ...]]:
    """One response for each prompt. The responses include the end token when one was sampled."""
    if not prompts:
        return []
    rows, owners = _prefill(policy, prompts)
    return _decode(policy, rows, owners, sampling)


def _prefill(policy: Policy, prompts: Sequence[Tokens]) -> tuple[_Rows, list[int]]:
    """Walk the trie level by level: feed all runs of a level as one batch over the branched caches of the last.

    A prompt whose leaf lies higher than others rides along with nothing to feed. Returns the rows, one per prompt,
    and the prompt each belongs to.
    """
    level: list[Node | int] = list(trie(prompts))  # a node to feed, or the index of a finished prompt
    n = len(level)
    hidden_size = policy.model.get_input_embeddings().embedding_dim
    rows = _Rows(
        DynamicCache(config=policy.model.config.get_text_config()),
        torch.zeros(n, 0, dtype=torch.bool, device=policy.device),
        torch.zeros(n, hidden_size, device=policy.device),
        torch.zeros(n, dtype=torch.long, device=policy.device),
    )
    while any(isinstance(item, Node) for item in level):
        _feed(policy, rows, prompts, level)
        below: list[Node | int] = []
        parents: list[int] = []
        for row, item in enumerate(level):
            children = [item] if isinstance(item, int) else [item.sequence] if item.leaf else item.children
            below += children
            parents += [row] * len(children)
        rows.select(torch.tensor(parents, device=policy.device))
        level = below
    return rows, [item for item in level if isinstance(item, int)]


def _feed(policy: Policy, rows: _Rows, prompts: Sequence[Tokens], level: Sequence[Node | int]) -> None:
    """One forward pass over a level's runs, right-padded. Updates `rows` in place."""
    device = policy.device
    runs = [_run(prompts[i.sequence], i) if isinstance(i, Node) else Tokens() for i in level]
    longest = max(map(len, runs))
    ids = torch.full((len(runs), longest), policy.family.pad_id)
    real = torch.zeros(len(runs), longest, dtype=torch.bool)
    rotary: torch.Tensor | None = None
    slots: list[Slot] = []
    for n, (run, item) in enumerate(zip(runs, level, strict=True)):
        if not isinstance(item, Node):
            continue
        ids[n, : len(run)] = torch.tensor(run.ids)
        real[n, : len(run)] = True
        positions = policy.family.positions(prompts[item.sequence])
        if rotary is None:
            rotary = torch.zeros(positions.shape[0], len(runs), longest, dtype=torch.long)
        rotary[:, n, : len(run)] = positions[:, item.start : item.stop]
        rows.position_N[n] = positions[:, : item.stop].max() + 1
        slots += [Slot(s.start + n * longest, s.length, s.view) for s in run.slots]
    embeds = policy.embed(ids.flatten(), slots).view(len(runs), longest, -1)
    hidden = _forward(policy, rows, embeds, rotary, real.to(device))
    fed = torch.tensor([len(run) for run in runs], device=device)
    last = hidden[torch.arange(len(runs), device=device), (fed - 1).clamp(min=0)]
    rows.last_N_H = torch.where(fed[:, None] > 0, last, rows.last_N_H.to(last.dtype))


def _run(prompt: Tokens, node: Node) -> Tokens:
    slots = tuple(
        Slot(s.start - node.start, s.length, s.view) for s in prompt.slots if node.start <= s.start < node.stop
    )
    return Tokens(prompt.ids[node.start : node.stop], slots)


def _forward(
    policy: Policy, rows: _Rows, embeds: torch.Tensor, rotary: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    """(N, T, H) hidden states of T new tokens over the cached ones; the cache and `valid_N_K` grow by T."""
    n, new = real.shape
    rows.valid_N_K = torch.cat([rows.valid_N_K, real], dim=1)
    old = rows.valid_N_K.shape[1] - new
    mask = rows.valid_N_K[:, None, None, :].expand(n, 1, new, old + new)
    if new > 1:
        causal = torch.ones(new, old + new, dtype=torch.bool, device=real.device).tril_(old)
        # A padded query sees itself: a row that sees nothing would turn to NaN.
        own = torch.eye(new, old + new, dtype=torch.bool, device=real.device).roll(old, 1) & ~real[:, None, :, None]
        mask = (mask & causal) | own
    return policy.model.model.language_model(
        inputs_embeds=embeds,
        position_ids=policy.rotary(rotary),
        attention_mask=mask,
        past_key_values=rows.cache,
        use_cache=True,
    ).last_hidden_state


def _decode(policy: Policy, rows: _Rows, owners: list[int], sampling: Sampling) -> list[tuple[int, ...]]:
    """Token by token until every row has ended. Rows that ended leave the batch."""
    device, family = policy.device, policy.family
    uniforms = sampling.uniforms(len(owners)).to(device)
    banned = torch.tensor(family.banned_ids, device=device)
    ends = torch.tensor(family.eos_ids, device=device)
    drawn = torch.full((len(owners), sampling.max_tokens), family.pad_id, device=device)
    lengths = torch.zeros(len(owners), dtype=torch.long, device=device)
    alive = torch.arange(len(owners), device=device)  # rows of `drawn` that the batch still holds
    rows.select(torch.tensor(owners, device=device).argsort())  # from trie order to the caller's
    for step in range(sampling.max_tokens):
        logits = policy.model.lm_head(rows.last_N_H).float().index_fill(-1, banned, -torch.inf)
        ids = _pick(logits, sampling, uniforms[alive, step])
        drawn[alive, step] = ids
        lengths[alive] = step + 1
        going = ~torch.isin(ids, ends)
        if step + 1 == sampling.max_tokens or not going.any():
            break
        if not going.all():
            kept = going.nonzero()[:, 0]
            rows.select(kept)
            alive, ids = alive[kept], ids[kept]
        embeds = policy.model.get_input_embeddings()(ids)[:, None]
        rotary = rows.position_N.expand(family.position_rows, -1)[..., None]
        real = torch.ones(len(alive), 1, dtype=torch.bool, device=device)
        rows.last_N_H = _forward(policy, rows, embeds, rotary, real)[:, 0]
        rows.position_N = rows.position_N + 1
    return [tuple(row[:n]) for row, n in zip(drawn.tolist(), lengths.tolist(), strict=True)]


def _pick(logits_N_V: torch.Tensor, sampling: Sampling, uniform_N: torch.Tensor) -> torch.Tensor:
    """(N,) ids: where the cumulative probability passes each row's uniform number."""
    if sampling.temperature == 0:
        return logits_N_V.argmax(-1)
    probs = (logits_N_V / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        sorted_probs, order = probs.sort(-1, descending=True)
        before = sorted_probs.cumsum(-1) - sorted_probs
        probs = torch.zeros_like(probs).scatter(-1, order, sorted_probs.masked_fill(before >= sampling.top_p, 0.0))
    mass = probs.double().cumsum(-1)  # in single precision a large vocabulary would lose its rare words
    # <=, so that an id without probability is stepped over, also by a uniform number of exactly 0.
    return (mass <= uniform_N[:, None] * mass[:, -1:]).sum(-1)
