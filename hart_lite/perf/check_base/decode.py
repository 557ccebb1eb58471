"""Is what is drawn what is trained on? The same sampled tokens by three paths: as they were drawn, token by token on a
cache; in a pack, as the update reads them; and by the library's own forward pass of one row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from hart_lite.models.generation import Response, Sampling, generate
from hart_lite.models.packing import Pack, pack
from hart_lite.models.policy import Policy
from hart_lite.types import Tokens

SAMPLES, LONGEST = 4, 24  # rows of a prompt, and tokens that a row draws
WHOLE = 1 << 20  # tokens of a pack: all rows fit


@dataclass(frozen=True)
class Difference:
    """Of two sets of log-probs, in nats: mean and largest absolute difference, NaN where one is no number."""

    mean: float
    most: float

    @classmethod
    def of(cls, one: Tensor, other: Tensor) -> Difference:
        apart = (one - other).abs()
        return cls(apart.mean().item(), apart.max().item())


@dataclass(frozen=True)
class Greedy:
    """`alike` of `tokens` ids drawn greedily are the library's choice, too. `margin`: by how many nats it prefers
    another where it does, at most."""

    alike: int
    tokens: int
    margin: float


@dataclass(frozen=True)
class Decoding:
    """`gap`: drawn - pack; `library`: pack - the library's forward; `adapter`: largest difference of logits with a
    fresh adapter on and off."""

    rows: int
    tokens: int
    gap: Difference
    library: Difference
    greedy: Greedy
    adapter: float


@dataclass(frozen=True)
class Speed:
    seconds_per_token: float  # of every row: all rows draw theirs at one time
    tokens_read_per_second: float


def rows_of(prompts: Sequence[Tokens]) -> list[Tokens]:
    """`SAMPLES` rows of each prompt."""
    return [prompt for prompt in prompts for _ in range(SAMPLES)]


def drawn(policy: Policy, prompts: Sequence[Tokens], temperature: float = 1.0, longest: int = LONGEST) -> list[Tokens]:
    """The rows with what follows them, drawn as a rollout draws it. Raises `NotFiniteError`."""
    graph = policy.device.type == "cuda"
    responses = generate(policy, prompts, Sampling(longest, temperature, graph=graph))
    return [_with(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def _with(prompt: Tokens, response: Response) -> Tokens:
    return prompt + Tokens.response(response.ids, logps=response.logps)


@torch.no_grad()
def compare(policy: Policy, prompts: Sequence[Tokens]) -> Decoding:
    """Rows of each prompt at temperature 1, and one greedy row of each. Raises `NotFiniteError`."""
    sequences = drawn(policy, rows_of(prompts))
    [packed] = pack(sequences, policy.family.positions, WHOLE)
    logps, logits = _scored(policy, packed)
    with policy.reference():
        _, without = _scored(policy, packed)
    some = range(0, len(sequences), SAMPLES)  # the first row of each prompt
    alone = torch.cat([_of_ids(library_logits(policy, sequences[n]), sequences[n]) for n in some])
    in_pack = torch.cat([logps[packed.owners_N.to(logps.device) == n] for n in some])
    return Decoding(
        rows=len(sequences),
        tokens=len(logps),
        gap=Difference.of(packed.drawn_N.to(logps.device), logps),
        library=Difference.of(in_pack, alone),
        greedy=_greedy(policy, drawn(policy, prompts, temperature=0.0)),
        adapter=(logits - without).abs().max().item(),
    )


def _scored(policy: Policy, packed: Pack) -> tuple[Tensor, Tensor]:
    """(N,) log-probs and (N, V) logits of the sampled tokens of a pack, in its order."""
    seen: list[Tensor] = []
    hook = policy.model.lm_head.register_forward_hook(lambda *call: seen.append(call[-1].float()))
    try:
        return policy.logps(packed), torch.cat(seen)
    finally:
        hook.remove()


def library_logits(policy: Policy, tokens: Tokens) -> Tensor:
    """(N, V) logits of the sampled tokens by the model's own forward, which finds masks and positions by itself."""
    [span] = tokens.sampled
    batch = policy.family.collate([tokens])
    del batch["position_ids"]
    dtype = policy.model.dtype
    inputs = {name: v.to(policy.device, dtype if v.is_floating_point() else None) for name, v in batch.items()}
    return policy.model(**inputs, use_cache=False, logits_to_keep=len(span) + 1).logits[0, :-1].float()


def _of_ids(logits_N_V: Tensor, tokens: Tokens) -> Tensor:
    """(N,) log-probs of the sampled ids."""
    return logits_N_V.log_softmax(-1).gather(-1, _ids(tokens).to(logits_N_V.device)[:, None])[:, 0]


def _ids(tokens: Tokens) -> Tensor:
    [span] = tokens.sampled
    return torch.tensor(tokens.ids[span.start : span.stop])


def _greedy(policy: Policy, sequences: Sequence[Tokens]) -> Greedy:
    """What is never sampled is left out of the library's choice."""
    margins = []
    for tokens in sequences:
        logits = library_logits(policy, tokens)
        logits[:, list(policy.family.banned_ids)] = -torch.inf
        margins.append(logits.amax(-1) - logits.gather(-1, _ids(tokens).to(logits.device)[:, None])[:, 0])
    margin = torch.cat(margins)
    return Greedy(int((margin == 0).sum()), len(margin), margin.max().item())


def speed(policy: Policy, prompts: Sequence[Tokens]) -> Speed:
    """Seconds of rows that draw one token and of rows that draw `LONGEST`; for a card the recording of its graph is
    among them."""
    rows = rows_of(prompts)
    once, _ = _timed(policy, lambda: drawn(policy, rows, longest=1))
    whole, sequences = _timed(policy, lambda: drawn(policy, rows))
    steps = max(len(span) for tokens in sequences for span in tokens.sampled)
    [read] = pack(list(prompts), policy.family.positions, WHOLE)
    return Speed((whole - once) / max(steps - 1, 1), len(read) / once)


def _timed(policy: Policy, work: Callable[[], list[Tokens]]) -> tuple[float, list[Tokens]]:
    start = perf_counter()
    out = work()
    if policy.device.type == "cuda":
        torch.cuda.synchronize(policy.device)
    return perf_counter() - start, out
