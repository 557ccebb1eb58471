"""Sampling with shared prefixes: the runs of the prompts' trie are read once, and every sample stands under them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from hart_lite.errors import NotFiniteError
from hart_lite.models.attention import Branches
from hart_lite.models.cuda_graph import record, release
from hart_lite.models.policy import Policy, chosen_logps
from hart_lite.models.prefill import Prefilled, prefill
from hart_lite.models.prompt_cache import PromptCache
from hart_lite.types import Tokens

BLOCK = 512  # ids of which the probabilities are summed at once, before one of them is drawn
CHECK_EVERY = 4  # sampled tokens after which the host asks who has ended: a card is waited for
LEAST_ROWS = 8  # a graph is not recorded anew for fewer
GRAPH_REACH = 64  # sampled tokens by which the reach of a recorded pass grows: it looks at that many more than it needs


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy.

    A draw follows from `seed` and the row's number alone: not from what else is in the batch, nor from when other rows
    end. `rows` numbers the prompts; without it they count from 0. `limits` gives each row a limit of its own, of at
    most `max_tokens`. With `graph` the pass of one token is recorded as a CUDA graph, which spares the launches of its
    kernels.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    rows: tuple[int, ...] | None = None
    limits: tuple[int, ...] | None = None
    graph: bool = False

    def uniforms(self, n: int) -> torch.Tensor:
        """(n, max_tokens) numbers in [0, 1), a stream of its own for each row."""
        streams = []
        for row in self.rows if self.rows is not None else range(n):
            seed = random.Random(f"{self.seed}/{row}").getrandbits(63)
            streams.append(torch.rand(self.max_tokens, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(streams)


def batches(prompts: Mapping[int, Tokens], limits: Mapping[int, int], budget: int) -> Iterator[dict[int, Tokens]]:
    """Consecutive prompts that hold at most `budget` tokens together with room for their responses; one alone may hold
    more. What a prompt begins with in common with the one before it is kept once; every row of a batch gets the room
    that the longest response may take."""
    batch: dict[int, Tokens] = {}
    read, room, last = 0, 0, Tokens()
    for n, prompt in prompts.items():
        added, room = len(prompt) - _shared(last, prompt), max(room, limits[n])
        if batch and read + added + room * (len(batch) + 1) > budget:
            yield batch
            batch, read, added, room = {}, 0, len(prompt), limits[n]
        batch[n], last = prompt, prompt
        read += added
    if batch:
        yield batch


def _shared(one: Tokens, other: Tokens) -> int:
    """How many tokens two prompts begin with alike, image tokens included where they are of the same view."""
    differing = (n for n, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b)
    alike = next(differing, min(len(one), len(other)))
    elsewhere = (a.start for a, b in zip(one.slots, other.slots, strict=False) if a.view != b.view)
    return min(alike, next(elsewhere, alike))


class Response(NamedTuple):
    """Sampled ids, the end token included where one was drawn, and the log-prob of each under the temperature it was
    drawn at, among all words: those that are never sampled or were cut off by `top_p` included. Without temperature
    there are none.

    Training scores under the same words. What is never sampled (a family's `banned_ids`) takes 2e-6 of the probability
    in the mean over 342 sampled tokens of the toy base, and 5e-5 at most: by so much are log-probs too low. `top_p`
    takes a large part, so RL refuses it."""

    ids: tuple[int, ...]
    logps: tuple[float, ...] = ()

    def up_to(self, tokens: int) -> Response:
        return Response(self.ids[:tokens], self.logps[:tokens])


@torch.no_grad()
def generate(
    policy: Policy, prompts: Sequence[Tokens], sampling: Sampling, cache: PromptCache | None = None
) -> list[Response]:
    """One response for each prompt, in order; repeat a prompt to sample it several times. `cache` knows the prompts
    that these go on from, and is told of them. Leaves the model in evaluation mode.

    Raises `NotFiniteError` when scores of the next token are not finite.
    """
    if not prompts:
        return []
    policy.model.eval()
    return _Decoding(policy, prefill(policy, prompts, cache), sampling).run()


class _Decoding:
    """Token by token until every row has ended. Every few tokens the host asks who has; those rows leave the batch, or
    under a graph, which their leaving ends, once no more than half are going on."""

    def __init__(self, policy: Policy, prompts: Prefilled, sampling: Sampling) -> None:
        n, device, family = len(prompts.owners), policy.device, policy.family
        self.policy, self.sampling = policy, sampling
        self.last_N_H, self.position_N = prompts.last_N_H, prompts.position_N
        self.branches = Branches(prompts.levels, sampling.max_tokens, GRAPH_REACH if sampling.graph else 1)
        self.step_of = _OneToken(policy, self.branches, sampling.graph)
        self.uniforms = sampling.uniforms(n).to(device)
        self.banned = torch.tensor(family.banned_ids, device=device)
        self.ends = torch.tensor(family.eos_ids, device=device)
        self.alive = torch.tensor(prompts.owners, device=device)  # prompts whose rows the batch holds, in trie's order
        limits = torch.tensor(sampling.limits or [sampling.max_tokens] * n, device=device)
        self.limits = limits
        self.going = limits[self.alive] > 0
        self.lost = torch.zeros((), dtype=torch.bool, device=device)
        self.ids = torch.full((n, sampling.max_tokens), family.pad_id, device=device)
        self.logps = torch.zeros(n, sampling.max_tokens, device=device)

    def run(self) -> list[Response]:
        try:
            self._sample()
        finally:
            self.last_N_H = None  # it may lie in the memory of a recording
            self.step_of.end()
        return self._responses()

    def _sample(self) -> None:
        longest = self.sampling.max_tokens
        for step in range(longest):
            ids = self._draw(step)
            last = step + 1 == longest
            if ((step + 1) % CHECK_EVERY == 0 or last) and (ids := self._remaining(ids)) is None:
                break
            if not last:
                self.last_N_H = self.step_of(ids, self.position_N, step)
                self.position_N = self.position_N + 1

    def _draw(self, step: int) -> torch.Tensor:
        """(N,) ids of the next token, noted down."""
        logits, temperature = self.policy.model.lm_head(self.last_N_H).float(), self.sampling.temperature
        ids = pick(logits.index_fill(-1, self.banned, -torch.inf), self.sampling, self.uniforms[self.alive, step])
        self.ids[self.alive, step] = ids
        if temperature > 0:  # among all words, as a pack has it
            self.logps[self.alive, step] = chosen_logps(logits / temperature, ids)
        self.lost = self.lost | (self.going & ~logits.amax(-1).isfinite()).any()  # NaN comes through a maximum
        self.going = self.going & ~torch.isin(ids, self.ends) & (step + 1 < self.limits[self.alive])
        return ids

    def _remaining(self, ids: torch.Tensor) -> torch.Tensor | None:
        """The ids of the rows that stay in the batch; None where none is going on."""
        left, lost = torch.stack([self.going.sum(), self.lost]).tolist()  # read at one time
        if lost:
            raise NotFiniteError(
                f"the scores of the next token are not finite for some of {len(ids)} prompts: the model's weights are "
                f"damaged, or {self.last_N_H.dtype} is too narrow for it; try model.dtype=bfloat16, or float32"
            )
        if not left:
            return None
        few = max(len(ids) // 2, LEAST_ROWS) if self.sampling.graph else len(ids) - 1
        if left > few or (len(ids) <= LEAST_ROWS and self.sampling.graph):
            return ids
        kept = self.going.nonzero()[:, 0]
        self.branches.keep(kept)
        self.alive, self.going, self.position_N = self.alive[kept], self.going[kept], self.position_N[kept]
        return ids[kept]

    def _responses(self) -> list[Response]:
        """Up to the first end token or the row's limit: a row may have gone on after it."""
        ended = torch.isin(self.ids, self.ends).int()
        lengths = torch.minimum((ended.cumsum(1) - ended == 0).sum(1), self.limits).tolist()
        rows = zip(self.ids.tolist(), self.logps.tolist(), lengths, strict=True)
        keep = self.sampling.temperature > 0
        return [Response(tuple(ids[:n]), tuple(logps[:n]) if keep else ()) for ids, logps, n in rows]


class _OneToken:
    """The pass that feeds every row the token it drew: (N, H) hidden states. As a graph it reads and writes tensors
    that stay in their place, and is recorded again when their shapes change."""

    def __init__(self, policy: Policy, branches: Branches, graph: bool) -> None:
        self.policy, self.branches, self.graph = policy, branches, graph
        self.shape: tuple[int, int] | None = None

    def __call__(self, ids_N: torch.Tensor, position_N: torch.Tensor, step: int) -> torch.Tensor:
        shape = (len(ids_N), self.branches.go_to(step))
        if not self.graph or step < CHECK_EVERY:  # short answers have ended before a recording would pay
            return self._hidden(ids_N, position_N)
        if shape != self.shape:
            self.replay = self.hidden = None  # its memory is free for the next one
            ids, positions = self.inputs = ids_N.clone(), position_N.clone()
            self.shape = shape  # before it is recorded: what is left of a recording that fails is given back, too
            self.replay, self.hidden = record(lambda: self._hidden(ids, positions))
        self.inputs[0].copy_(ids_N)
        self.inputs[1].copy_(position_N)
        self.replay()
        return self.hidden

    def end(self) -> None:
        if self.shape is not None:
            self.shape = self.replay = self.hidden = None
            release()

    def _hidden(self, ids_N: torch.Tensor, position_N: torch.Tensor) -> torch.Tensor:
        """May be run twice: what it keeps of the token is written in its place."""
        policy, decoder, branches = self.policy, self.policy.decoder, self.branches
        embeds = policy.model.get_input_embeddings()(ids_N)[:, None]
        rotary = position_N.expand(policy.family.position_rows, -1)[..., None]
        return decoder(embeds, rotary, lambda layer, q, k, v: branches.attend(layer, q, k, v, decoder.scale))[:, 0]


def pick(logits_N_V: torch.Tensor, sampling: Sampling, uniform_N: torch.Tensor) -> torch.Tensor:
    """(N,) ids, where the cumulative probability passes each row's uniform number."""
    if sampling.temperature == 0:
        return logits_N_V.argmax(-1)
    probs = (logits_N_V / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        sorted_probs, order = probs.sort(-1, descending=True)
        before = sorted_probs.cumsum(-1) - sorted_probs
        probs = torch.zeros_like(probs).scatter(-1, order, sorted_probs.masked_fill(before >= sampling.top_p, 0.0))
    # In double precision, or a large vocabulary would lose its rare words: first a block of ids is drawn, then an id of
    # it, so that little is written out as wide as that.
    blocks = pad(probs, (0, -probs.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    ends = pad(blocks.sum(-1, dtype=torch.float64).cumsum(-1), (1, 0))
    goal = uniform_N[:, None] * ends[:, -1:]
    # <=, so that an id without probability is stepped over, also by a uniform number of exactly 0.
    block = (ends[:, 1:] <= goal).sum(-1, keepdim=True)
    inside = blocks.take_along_dim(block[..., None], 1)[:, 0].double().cumsum(-1)
    goal = torch.minimum(goal - ends.gather(-1, block), inside[:, -1:].nextafter(goal.new_zeros(())))
    return block[:, 0] * BLOCK + (inside <= goal).sum(-1)
