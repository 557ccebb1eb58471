"""Sampling with shared prefixes: each run of the prompts' trie is prefilled once, and every sample hangs under it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from hart_lite.errors import NotFiniteError
from hart_lite.models.attention import Branches
from hart_lite.models.cuda_graph import record
from hart_lite.models.packing import Node, trie
from hart_lite.models.policy import Policy
from hart_lite.types import Slot, Tokens

FEED_TOKENS = 4096  # tokens of prompts that one pass reads at most, unless a single run is longer: bounds its memory
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


@dataclass
class _Rows:
    """A batch of rows: what they have seen, and where each stands.

    last_N_H is the hidden state at each row's last token, position_N the rotary position of its next one (text: the
    same in every position row).
    """

    branches: Branches
    last_N_H: torch.Tensor
    position_N: torch.Tensor

    def branch(self, parents_N: torch.Tensor) -> None:
        self.branches.branch(parents_N)
        self.last_N_H, self.position_N = self.last_N_H[parents_N], self.position_N[parents_N]

    def keep(self, rows: torch.Tensor) -> None:
        self.branches.keep(rows)
        self.last_N_H, self.position_N = self.last_N_H[rows], self.position_N[rows]

    def part(self, rows: slice) -> _Rows:
        return _Rows(self.branches.part(rows), self.last_N_H[rows], self.position_N[rows])

    def join(self, parts: Sequence[_Rows]) -> None:
        """Parts of these rows, each with one level more, become these rows again."""
        self.branches.join([part.branches for part in parts])
        self.last_N_H = torch.cat([part.last_N_H for part in parts])
        self.position_N = torch.cat([part.position_N for part in parts])


@torch.no_grad()
def generate(policy: Policy, prompts: Sequence[Tokens], sampling: Sampling) -> list[tuple[int, ...]]:
    """One response for each prompt, in order; repeat a prompt to sample it several times. The responses include the end
    token where one was sampled. Leaves the model in evaluation mode.

    Raises `NotFiniteError` when scores of the next token are not finite.
    """
    if not prompts:
        return []
    policy.model.eval()
    rows, owners = _prefill(policy, prompts)
    return _decode(policy, rows, owners, sampling)


def _prefill(policy: Policy, prompts: Sequence[Tokens]) -> tuple[_Rows, list[int]]:
    """Walk the trie level by level: feed all runs of a level as one batch that hangs under the runs of the last.

    A prompt whose leaf lies higher than others rides along with nothing to feed. Returns the rows, one per prompt,
    and the prompt each belongs to.
    """
    level: list[Node | int] = list(trie(prompts))  # a node to feed, or the index of a finished prompt
    n = len(level)
    rows = _Rows(
        Branches(),
        torch.zeros(n, policy.model.get_input_embeddings().embedding_dim, device=policy.device),
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
        rows.branch(torch.tensor(parents, device=policy.device))
        level = below
    return rows, [item for item in level if isinstance(item, int)]


def _feed(policy: Policy, rows: _Rows, prompts: Sequence[Tokens], level: Sequence[Node | int]) -> None:
    """Forward passes over a level's runs, right-padded. Updates `rows` in place."""
    runs = [_run(prompts[i.sequence], i) if isinstance(i, Node) else Tokens() for i in level]
    longest = max(map(len, runs))
    slices = _slices(len(runs), max(FEED_TOKENS // longest, 1))
    parts = [rows.part(rows_slice) for rows_slice in slices]
    for part, at in zip(parts, slices, strict=True):
        _feed_part(policy, part, prompts, level[at], runs[at], longest)
    rows.join(parts)


def _slices(n: int, most: int) -> list[slice]:
    return [slice(start, start + most) for start in range(0, n, most)]


def _feed_part(
    policy: Policy,
    rows: _Rows,
    prompts: Sequence[Tokens],
    level: Sequence[Node | int],
    runs: Sequence[Tokens],
    longest: int,
) -> None:
    """One forward pass over some of a level's runs."""
    device = policy.device
    ids = torch.full((len(runs), longest), policy.family.pad_id)
    real = torch.zeros(len(runs), longest, dtype=torch.bool)
    rotary = torch.zeros(policy.family.position_rows, len(runs), longest, dtype=torch.long)
    slots: list[Slot] = []
    for n, (run, item) in enumerate(zip(runs, level, strict=True)):
        if not isinstance(item, Node):
            continue
        ids[n, : len(run)] = torch.tensor(run.ids)
        real[n, : len(run)] = True
        positions = policy.family.positions(prompts[item.sequence])
        rotary[:, n, : len(run)] = positions[:, item.start : item.stop]
        rows.position_N[n] = positions[:, : item.stop].max() + 1
        slots += [Slot(s.start + n * longest, s.length, s.view) for s in run.slots]
    embeds = policy.embed(ids.flatten(), slots).view(len(runs), longest, -1)
    rows.branches.feed(real.to(device))
    hidden = _forward(policy, rows, embeds, rotary, _mask(rows.branches.seen(), real.to(device)))
    fed = torch.tensor([len(run) for run in runs], device=device)
    last = hidden[torch.arange(len(runs), device=device), (fed - 1).clamp(min=0)]
    rows.last_N_H = torch.where(fed[:, None] > 0, last, rows.last_N_H.to(last.dtype))


def _run(prompt: Tokens, node: Node) -> Tokens:
    slots = tuple(
        Slot(s.start - node.start, s.length, s.view) for s in prompt.slots if node.start <= s.start < node.stop
    )
    return Tokens(prompt.ids[node.start : node.stop], slots)


def _mask(seen_N_K: torch.Tensor, real_N_T: torch.Tensor) -> torch.Tensor:
    """(N, 1, T, K + T): a fed token sees what its row has seen, and its own run up to itself."""
    new = real_N_T.shape[1]
    causal = torch.ones(new, new, dtype=torch.bool, device=real_N_T.device).tril()
    # A padded query sees itself: a row that sees nothing would turn to NaN.
    own = real_N_T[:, None] & causal | torch.eye(new, dtype=torch.bool, device=real_N_T.device)
    return torch.cat([seen_N_K[:, None].expand(-1, new, -1), own], dim=-1)[:, None]


def _forward(
    policy: Policy, rows: _Rows, embeds: torch.Tensor, rotary: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """(N, T, H) hidden states of T new tokens in each row."""
    return policy.family.language(policy.model)(
        inputs_embeds=embeds,
        position_ids=policy.rotary(rotary),
        attention_mask=mask,
        use_cache=False,
        branches=rows.branches,
    ).last_hidden_state


def _decode(policy: Policy, rows: _Rows, owners: list[int], sampling: Sampling) -> list[tuple[int, ...]]:
    """Token by token until every row has ended. Rows that ended leave the batch: at once, or under a graph, which their
    leaving ends, when no more than half are going on."""
    device, family = policy.device, policy.family
    uniforms = sampling.uniforms(len(owners)).to(device)
    banned = torch.tensor(family.banned_ids, device=device)
    ends = torch.tensor(family.eos_ids, device=device)
    drawn = torch.full((len(owners), sampling.max_tokens), family.pad_id, device=device)
    alive = torch.tensor(owners, device=device)  # the prompts whose rows the batch still holds, in the trie's order
    limits = torch.tensor(sampling.limits or [sampling.max_tokens] * len(owners), device=device)
    going = torch.ones(len(owners), dtype=torch.bool, device=device)
    rows.branches.sample(sampling.max_tokens, GRAPH_REACH if sampling.graph else 1)
    feed = _OneToken(policy, rows, sampling.graph)
    for step in range(sampling.max_tokens):
        logits = policy.model.lm_head(rows.last_N_H).float().index_fill(-1, banned, -torch.inf)
        ids = _pick(logits, sampling, uniforms[alive, step])
        drawn[alive, step] = ids
        going = going & ~torch.isin(ids, ends) & (step + 1 < limits[alive])
        finite = logits.amax(-1).isfinite()  # NaN comes through; -inf is what is banned
        left, lost = torch.stack([going.sum(), (~finite).sum()]).tolist()  # read at one time: a card is waited for
        if lost:
            raise NotFiniteError(
                f"the scores of the next token are not finite after {lost} of {len(ids)} prompts: the model's weights "
                f"are damaged, or {rows.last_N_H.dtype} is too narrow for it; try model.dtype=bfloat16, or float32"
            )
        if not left:
            break
        if left <= len(going) // 2 if sampling.graph else left < len(going):
            kept = going.nonzero()[:, 0]
            rows.keep(kept)
            alive, ids, going = alive[kept], ids[kept], going[kept]
        feed(ids, step)
    ended = torch.isin(drawn, ends).int()
    lengths = (ended.cumsum(1) - ended == 0).sum(1)  # up to the first end token; a row may have gone on after it
    lengths = torch.minimum(lengths, limits)
    return [tuple(row[:n]) for row, n in zip(drawn.tolist(), lengths.tolist(), strict=True)]


class _OneToken:
    """The pass that feeds every row the token it drew. As a graph it reads and writes tensors that stay in their place,
    and is recorded again when their shapes change."""

    def __init__(self, policy: Policy, rows: _Rows, graph: bool) -> None:
        self.policy, self.rows, self.graph = policy, rows, graph
        self.mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=policy.device)  # a query sees all its row holds
        self.shape: tuple[int, int] | None = None

    def __call__(self, ids_N: torch.Tensor, step: int) -> None:
        """Updates the rows in place."""
        rows = self.rows
        shape = (len(ids_N), rows.branches.reach(step))
        if not self.graph:
            rows.last_N_H = self._hidden(ids_N, rows.position_N)
        else:
            if shape != self.shape:
                ids, positions = self.inputs = ids_N.clone(), rows.position_N.clone()
                self.shape, (self.replay, self.hidden) = shape, record(lambda: self._hidden(ids, positions))
            self.inputs[0].copy_(ids_N)
            self.inputs[1].copy_(rows.position_N)
            self.replay()
            rows.last_N_H = self.hidden
        rows.position_N = rows.position_N + 1

    def _hidden(self, ids_N: torch.Tensor, position_N: torch.Tensor) -> torch.Tensor:
        """(N, H). May be run twice: what it keeps of the token is written in its place."""
        embeds = self.policy.model.get_input_embeddings()(ids_N)[:, None]
        rotary = position_N.expand(self.policy.family.position_rows, -1)[..., None]
        return _forward(self.policy, self.rows, embeds, rotary, self.mask)[:, 0]


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
