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


@dataclass(frozen=True, eq=False)
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
    """Every run is read once, in passes of at most `FEED_TOKENS` tokens."""
    runs = list(_runs(trie(prompts)))
    embeds_T_H, positions_R_T = _inputs(policy, prompts, runs)
    store = Store(len(embeds_T_H))
    leaves = [run for run in runs if run.node.leaf]
    ends = {run.places.stop - 1: run for run in leaves}
    last: dict[Run, Tensor] = {}
    for part in _passes(runs):
        first, stop = part[0].places.start, part[-1].places.stop
        hidden = _read(policy, embeds_T_H[first:stop], positions_R_T[:, first:stop], part, store)
        last.update((ends[place], hidden[place - first]) for place in range(first, stop) if place in ends)
    return Prefilled(
        [run.node.sequence for run in leaves],
        torch.stack([last[run] for run in leaves]),
        torch.stack([positions_R_T[:, run.places.stop - 1].max() + 1 for run in leaves]),
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


def _inputs(policy: Policy, prompts: Sequence[Tokens], runs: Sequence[Run]) -> tuple[Tensor, Tensor]:
    """(T, H) embeddings and (R, T) positions of all runs, one after the other."""
    ids: list[int] = []
    slots: list[Slot] = []
    positions = {run.node.sequence: policy.family.positions(prompts[run.node.sequence]) for run in runs}
    for run in runs:
        node, tokens = run.node, prompts[run.node.sequence]
        ids += tokens.ids[node.start : node.stop]
        inside = (s for s in tokens.slots if node.start <= s.start < node.stop)
        slots += [Slot(s.start + run.start - node.start, s.length, s.view) for s in inside]
    rotary = torch.cat([positions[r.node.sequence][:, r.node.start : r.node.stop] for r in runs], dim=1)
    return policy.embed(torch.tensor(ids), slots), rotary.to(policy.device)


@dataclass(frozen=True)
class Piece:
    """What a pass reads of a run: all of it, but where the pass is full before it ends."""

    run: Run
    places: range

    @property
    def above(self) -> list[range]:
        before = range(self.run.start, self.places.start)
        return [*(run.places for run in self.run.above), *([before] if before else [])]


def _passes(runs: Sequence[Run]) -> Iterator[list[Piece]]:
    part: list[Piece] = []
    room = FEED_TOKENS
    for run in runs:
        start = run.start
        while start < run.places.stop:
            places = range(start, min(start + room, run.places.stop))
            part.append(Piece(run, places))
            start, room = places.stop, room - len(places)
            if not room:
                yield part
                part, room = [], FEED_TOKENS
    if part:
        yield part


def _read(policy: Policy, embeds_T_H: Tensor, positions_R_T: Tensor, part: Sequence[Piece], store: Store) -> Tensor:
    """(T, H) hidden states of pieces that lie one after the other; their keys and values go to the store."""
    places = slice(part[0].places.start, part[-1].places.stop)
    tree = Tree.of([len(piece.places) for piece in part], [piece.above for piece in part], policy.device)
    decoder = policy.decoder

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        store.write(layer, places, k[0], v[0])
        kept = store.keys[layer], store.values[layer]
        return attend(q[0], k[0], v[0], tree, decoder.scale, kept)[None]

    return decoder(embeds_T_H[None], positions_R_T[:, None], attention)[0]


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
