"""A safetensors checkpoint on disk: read one tensor at a time, and written anew with some tensors changed.

Reading is `safetensors.safe_open`, which checks the header and maps the file instead of loading it. Writing is ours,
since `safetensors.torch.save_file` wants every tensor of a file in memory and sorts them anew. Here a new shard gets
the old one's header byte for byte (names, order, dtypes, metadata), then the tensors in their order, one at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from hart_lite.errors import ModelError
from hart_lite.utils.text import shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # of weights that an adapter can be added to

Change = Callable[[torch.Tensor], torch.Tensor]  # same shape and dtype


@dataclass(frozen=True)
class TensorSlot:
    """Which shard holds a tensor, and of what kind it is."""

    shard: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    shards: tuple[str, ...]
    slots: dict[str, TensorSlot]  # by the name a tensor has in the files

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Reads the headers alone. Raises `ModelError` for a shard that is missing, damaged, or not as indexed."""
        slots: dict[str, TensorSlot] = {}
        expected = _expected(folder)
        for shard, names in expected.items():
            found = _slots(folder / shard)
            if missing := sorted(names - found.keys()):
                raise ModelError(f"{folder / shard} lacks {shown(missing[0])}, which {INDEX} says it holds")
            if twice := sorted(found.keys() & slots.keys()):
                raise ModelError(f"{folder}: {shown(twice[0])} is in {slots[twice[0]].shard} and in {shard}")
            slots |= found
        return cls(folder, tuple(expected), slots)

    @property
    def nbytes(self) -> int:
        return sum((self.folder / shard).stat().st_size for shard in self.shards)

    def read(self, name: str) -> torch.Tensor:
        """A tensor as it is stored, in the memory of the mapped file, which is read where it is used."""
        with safe_open(self.folder / self.slots[name].shard, "pt") as file:
            return file.get_tensor(name)

    def copy_shard(self, shard: str, folder: Path, changes: Mapping[str, Change]) -> None:
        """Write a shard into another folder, with the tensors that `changes` names changed."""
        with safe_open(self.folder / shard, "pt") as old, (folder / shard).open("wb") as new:
            new.write(_header(self.folder / shard))
            for name in old.offset_keys():
                before = old.get_tensor(name)
                after = changes[name](before) if name in changes else before
                if (after.shape, after.dtype) != (before.shape, before.dtype):
                    raise AssertionError(f"{name} became {after.dtype} {tuple(after.shape)}")
                new.write(raw(after).numpy())
            new.flush()
            os.fsync(new.fileno())  # here, or gigabytes wait in memory for the disk


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, (nbytes,) of uint8: two that are NaN in one place are equal there."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _expected(folder: Path) -> dict[str, set[str]]:
    """The shards in order, and what each is said to hold."""
    index = folder / INDEX
    if (folder / SINGLE).is_file():  # transformers looks for it first, too
        return {SINGLE: set()}
    if not index.is_file():
        raise ModelError(f"{folder} holds no safetensors checkpoint: neither {SINGLE} nor {INDEX} is there")
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(shard, str) for shard in names.values()):
            raise ValueError("its weight_map should name a file for each tensor")
        shards: dict[str, set[str]] = {shard: set() for shard in sorted(set(names.values()))}
        for name, shard in names.items():
            shards[shard].add(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is damaged: {error!r}") from error
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(f"{index} names a shard {shown(shard)}, which is no file name in its folder")
    return shards


def _slots(path: Path) -> dict[str, TensorSlot]:
    if not path.is_file():
        raise ModelError(f"{path} is missing: the checkpoint is not whole. Download or save it again")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged: {error}. Download or save it again") from error
    return {name: TensorSlot(path.name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def _header(path: Path) -> bytes:
    """All that stands before the tensors: 8 bytes with the length of a JSON text, and the text."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))
