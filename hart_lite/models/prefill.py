"""Reading prompts: every run of their trie once, the samples of a question and the questions on an image together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hart_lite.config.limits import FEED_TOKENS
from hart_lite.models.attention import Level
from hart_lite.models.packing import Node, trie
from hart_lite.models.policy import Policy
from hart_lite.models.prompt_cache import PromptCache, Store
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
class Prefilled:
    """Rows in the trie's order: the prompt of each, its last hidden state (N, H) and the rotary position of its next
    token (N,), which text has the same in every position row; and the levels of runs they stand under."""

    owners: list[int]
    last_N_H: Tensor
    position_N: Tensor
    levels: list[Level]


def prefill(policy: Policy, prompts: Sequence[Tokens], cache: PromptCache | None = None) -> Prefilled:
    """Every run is read once, in passes of at most `FEED_TOKENS` tokens; what the cache knows of it is not read again,
    and what is read goes into the cache."""
    runs = list(_runs(trie(prompts)))
    inputs_T_E, positions_R_T = _inputs(policy, prompts, runs)
    store = Store(len(inputs_T_E))
    unread = _take_known(prompts, runs, store, cache) if cache is not None else {}
    leaves = [run for run in runs if run.node.leaf]
    ends = {run.places.stop - 1: run for run in leaves}
    last: dict[Run, Tensor] = {}
    for part in _passes(runs, unread):
        at = torch.cat([torch.arange(piece.places.start, piece.places.stop) for piece in part])
        on_device = at.to(policy.device)
        hidden = _read(policy, inputs_T_E[on_device], positions_R_T[:, on_device], on_device, part, store)
        ended = [n for n, place in enumerate(at.tolist()) if place in ends]
        # Indexed, not sliced: a slice would hold the states of the whole pass.
        last.update(zip((ends[place] for place in at[ended].tolist()), hidden[ended], strict=True))
    if cache is not None:
        cache.add(
            [prompts[run.node.sequence] for run in leaves],
            [torch.cat([torch.arange(r.places.start, r.places.stop) for r in (*run.above, run)]) for run in leaves],
            store,
        )
    return Prefilled(
        [run.node.sequence for run in leaves],
        torch.stack([last[run] for run in leaves]),
        torch.stack([positions_R_T[:, run.places.stop - 1].max() + 1 for run in leaves]),
        _levels(leaves, store, cache is not None, policy.device),
    )


def _take_known(prompts: Sequence[Tokens], runs: Sequence[Run], store: Store, cache: PromptCache) -> dict[Run, int]:
    """Copy what the cache has of these runs. Returns where in a run the first token stands that it has not."""
    known = {n: cache.find(prompts[n]) for n in dict.fromkeys(run.node.sequence for run in runs)}
    unread: dict[Run, int] = {}
    for run in runs:
        found, node = known[run.node.sequence], run.node
        length = min(len(found) if found else 0, node.stop) - node.start
        if length > 0:
            places = range(run.start, run.start + length)
            found.copy_to(store, places, node.start)
            unread[run] = places.stop
    return unread


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
    """(T, E) inputs and (R, T) positions of all runs, one after the other."""
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


def _passes(runs: Sequence[Run], unread: Mapping[Run, int]) -> Iterator[list[Piece]]:
    part: list[Piece] = []
    room = FEED_TOKENS
    for run in runs:
        start = unread.get(run, run.start)
        while start < run.places.stop:
            places = range(start, min(start + room, run.places.stop))
            part.append(Piece(run, places))
            start, room = places.stop, room - len(places)
            if not room:
                yield part
                part, room = [], FEED_TOKENS
    if part:
        yield part


def _read(
    policy: Policy,
    inputs_T_E: Tensor,
    positions_R_T: Tensor,
    places_T: Tensor,
    part: Sequence[Piece],
    store: Store,
) -> Tensor:
    """(T, H) hidden states of pieces; their keys and values go to `places_T` of the store."""
    tree = Tree.of([len(piece.places) for piece in part], [piece.above for piece in part], policy.device)
    decoder = policy.decoder

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        store.write(layer, places_T, k[0], v[0])
        kept = store.keys[layer], store.values[layer]
        return attend(q[0], k[0], v[0], tree, decoder.scale, kept)[None]

    return decoder(inputs_T_E[None], positions_R_T[:, None], attention)[0]


def _levels(leaves: Sequence[Run], store: Store, keep: bool, device: torch.device) -> list[Level]:
    """What the rows stand under, depth by depth. A row that has nothing at a depth stands under an empty run there."""
    chains = [(*leaf.above, leaf) for leaf in leaves]
    real, rows, places = [], [], []
    for depth in range(max(map(len, chains))):
        at_depth = [chain[depth] if depth < len(chain) else None for chain in chains]
        numbers = {run: n for n, run in enumerate(dict.fromkeys(at_depth))}
        longest = max(len(run.node) for run in numbers if run)
        where = torch.zeros(len(numbers), longest, dtype=torch.long)
        there = torch.zeros_like(where, dtype=torch.bool)
        for run, n in numbers.items():
            if run:
                where[n, : len(run.node)] = torch.arange(run.places.start, run.places.stop)
                there[n, : len(run.node)] = True
        places.append(where.to(device))
        real.append(there.to(device))
        rows.append(torch.tensor([numbers[run] for run in at_depth], device=device))
    kept = store.gather(places, keep)
    return [Level(*parts, *kv) for *parts, kv in zip(real, rows, kept, strict=True)]
