"""Keys and values of prompts that were read: of one batch, and of the turns of a conversation that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from hart_lite.types import Slot, Tokens


@dataclass
class Store:
    """Keys and values of `size` tokens one after the other, (S, heads, D) by layer."""

    size: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def write(self, layer: int, places: slice | Tensor, k: Tensor, v: Tensor) -> None:
        if layer == len(self.keys):
            self.keys.append(k.new_empty(self.size, *k.shape[1:]))
            self.values.append(v.new_empty(self.size, *v.shape[1:]))
        self.keys[layer][places], self.values[layer][places] = k, v

    def gather(self, all_places: Sequence[Tensor], keep: bool) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Keys and values by layer, (n, heads, T, D), for each (n, T) of places. Unless the store is to be kept, a
        layer of it is let go as soon as it is copied: all of them twice would be the most that a rollout holds."""
        gathered = [([], []) for _ in all_places]
        for layer in range(len(self.keys)):
            for places_n_T, (keys, values) in zip(all_places, gathered, strict=True):
                keys.append(self.keys[layer][places_n_T].transpose(1, 2).contiguous())
                values.append(self.values[layer][places_n_T].transpose(1, 2).contiguous())
            if not keep:
                self.keys[layer] = self.values[layer] = None
        return gathered


@dataclass(frozen=True)
class Known:
    """The first tokens of a prompt that were read before, and where."""

    store: Store
    places_T: Tensor

    def __len__(self) -> int:
        return len(self.places_T)

    def copy_to(self, store: Store, places: range, first: int) -> None:
        """Those from the `first` on into `places` of another store."""
        old = self.places_T[first : first + len(places)].to(self.store.keys[0].device)
        for layer, (k, v) in enumerate(zip(self.store.keys, self.store.values, strict=True)):
            store.write(layer, slice(places.start, places.stop), k[old], v[old])


class PromptCache:
    """Prompts whose keys and values are kept, of at most `most` tokens together: what is beyond is read again. They are
    those of the weights that read them, so no cache outlives a rollout or a batch of questions."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._known: dict[tuple, Known] = {}
        self._lengths: set[int] = set()

    def add(self, prompts: Sequence[Tokens], places: Sequence[Tensor], store: Store) -> None:
        """`places` of the store hold each prompt."""
        if self.used + store.size > self.most:
            return
        self.used += store.size
        for prompt, at in zip(prompts, places, strict=True):
            self._known[_key(prompt, len(prompt))] = Known(store, at)
            self._lengths.add(len(prompt))

    def forget(self) -> None:
        """For want of memory: nothing is kept from now on."""
        self.most = self.used = 0
        self._known.clear()
        self._lengths.clear()

    def find(self, prompt: Tokens) -> Known | None:
        """The longest prompt kept that this one begins with, and goes beyond."""
        lengths = sorted((n for n in self._lengths if n < len(prompt)), reverse=True)
        return next((known for n in lengths if (known := self._known.get(_key(prompt, n)))), None)


def _key(prompt: Tokens, length: int) -> tuple[tuple[int, ...], tuple[Slot, ...]]:
    return prompt.ids[:length], tuple(slot for slot in prompt.slots if slot.start < length)
