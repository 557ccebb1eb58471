"""Reading prompts: every run of their trie once, the samples of a question and the questions on an image together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hart_lite.config.limits import FEED_TOKENS
from hart_lite.models.attention import Level
from hart_lite.models.packing import Node, trie
from hart_lite.models.policy import Policy
from hart_lite.models.tree_attention import Tree, attend
from hart_lite.types import Slot, Tokens


@dataclass(frozen=True)
class Run:
    """A node of the trie and where its tokens lie among all that are read; `above` are the runs it continues."""

    node: Node
    start: int
    above: tuple[Run, ...]

    @property
    def places(self) -> range:
        return range(self.start, self.start + len(self.node))


@dataclass
class Store:
    """Keys and values of all runs, (S, heads, D) by layer."""

    size: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def write(self, layer: int, places: slice, k: Tensor, v: Tensor) -> None:
        if layer == len(self.keys):
            self.keys.append(k.new_empty(self.size, *k.shape[1:]))
            self.values.append(v.new_empty(self.size, *v.shape[1:]))
        self.keys[layer][places], self.values[layer][places] = k, v

    def gather(self, places_n_T: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(n, heads, T, D) by layer."""
        return tuple(
            [stored[places_n_T].transpose(1, 2).contiguous() for stored in part] for part in (self.keys, self.values)
        )


@dataclass
class Prefilled:
    """Rows in the trie's order: the prompt of each, its last hidden state (N, H) and the rotary position of its next
    token (N,), which text has the same in every position row; and the levels of runs they stand under."""

    owners: list[int]
    last_N_H: Tensor
    position_N: Tensor
    levels: list[Level]


def prefill(policy: Policy, prompts: Sequence[Tokens]) -> Prefilled:
    """Every run is read once, in passes of at most `FEED_TOKENS` tokens, unless a run alone is longer."""
    runs = list(_runs(trie(prompts)))
    store = Store(runs[-1].places.stop)
    positions = {n: policy.family.positions(prompt) for n, prompt in enumerate(prompts)}
    leaves = [run for run in runs if run.node.leaf]
    last: dict[int, Tensor] = {}
    for part in _passes(runs):
        hidden = _read(policy, prompts, positions, part, store)
        ends = torch.tensor([len(run.node) for run in part]).cumsum(0) - 1
        last.update((run.start, hidden[end]) for run, end in zip(part, ends.tolist(), strict=True) if run.node.leaf)
    owners = [run.node.sequence for run in leaves]
    return Prefilled(
        owners,
        torch.stack([last[run.start] for run in leaves]),
        torch.tensor([int(positions[n].max()) + 1 for n in owners], device=policy.device),
        _levels(leaves, store, policy.device),
    )


def _runs(roots: Sequence[Node]) -> Iterator[Run]:
    """In depth-first order: what is above a run comes before it."""
    start = 0
    waiting: list[tuple[Node, tuple[Run, ...]]] = [(node, ()) for node in reversed(roots)]
    while waiting:
        node, above = waiting.pop()
        run = Run(node, start, above)
        start += len(node)
        yield run
        waiting += [(child, (*above, run)) for child in reversed(node.children)]


def _passes(runs: Sequence[Run]) -> Iterator[list[Run]]:
    part: list[Run] = []
    for run in runs:
        if part and run.places.stop - part[0].start > FEED_TOKENS:
            yield part
            part = []
        part.append(run)
    yield part


def _read(
    policy: Policy, prompts: Sequence[Tokens], positions: dict[int, Tensor], part: Sequence[Run], store: Store
) -> Tensor:
    """(T, H) hidden states of some runs, which lie one after the other; their keys and values go to the store."""
    first, stop = part[0].start, part[-1].places.stop
    ids: list[int] = []
    slots: list[Slot] = []
    for run in part:
        node, tokens = run.node, prompts[run.node.sequence]
        ids += tokens.ids[node.start : node.stop]
        moved = run.start - first - node.start
        inside = (s for s in tokens.slots if node.start <= s.start < node.stop)
        slots += [Slot(s.start + moved, s.length, s.view) for s in inside]
    rotary = torch.cat([positions[r.node.sequence][:, r.node.start : r.node.stop] for r in part], dim=1)
    above = [[seen.places for seen in run.above] for run in part]
    tree = Tree.of([len(run.node) for run in part], above, policy.device)
    decoder = policy.decoder

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        store.write(layer, slice(first, stop), k[0], v[0])
        kept = store.keys[layer], store.values[layer]
        return attend(q[0], k[0], v[0], tree, decoder.scale, kept)[None]

    return decoder(policy.embed(torch.tensor(ids), slots)[None], rotary[:, None].to(policy.device), attention)[0]


def _levels(leaves: Sequence[Run], store: Store, device: torch.device) -> list[Level]:
    """What the rows stand under, depth by depth. A row that has nothing at a depth stands under an empty run there."""
    chains = [(*leaf.above, leaf) for leaf in leaves]
    levels = []
    for depth in range(max(map(len, chains))):
        at_depth = [chain[depth] if depth < len(chain) else None for chain in chains]
        numbers = {run: n for n, run in enumerate(dict.fromkeys(at_depth))}
        longest = max(len(run.node) for run in numbers if run)
        places = torch.zeros(len(numbers), longest, dtype=torch.long)
        real = torch.zeros_like(places, dtype=torch.bool)
        for run, n in numbers.items():
            if run:
                places[n, : len(run.node)] = torch.arange(run.places.start, run.places.stop)
                real[n, : len(run.node)] = True
        rows = torch.tensor([numbers[run] for run in at_depth], device=device)
        levels.append(Level(real.to(device), rows, *store.gather(places.to(device))))
    return levels
