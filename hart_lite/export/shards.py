"""A safetensors checkpoint on disk: where each tensor lies, read and written anew one tensor at a time.

A shard of a merged checkpoint is the base's shard with the bytes of some tensors replaced: names, order, dtypes and
metadata stay, and no more than one tensor is in memory. (safetensors: 8 bytes with the length of a JSON header, the
header, the tensors.)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from hart_lite.errors import HartError
from hart_lite.utils.text import shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LONGEST = 2**40  # side of a tensor
PIECE = 1 << 22  # bytes copied at one time

Change = Callable[[torch.Tensor], torch.Tensor]  # same shape and dtype


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: bytes `start` to `stop` of a shard."""

    shard: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    shards: tuple[str, ...]
    places: dict[str, Place]  # by the name a tensor has in the files

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Reads the headers alone. Raises `HartError` for a shard that is missing, damaged or not as the index says."""
        places: dict[str, Place] = {}
        expected = _expected(folder)
        for shard, names in expected.items():
            found = _header(folder, shard)
            if missing := sorted(names - found.keys()):
                raise HartError(f"{folder / shard} lacks {shown(missing[0])}, which {INDEX} says it holds")
            if twice := sorted(found.keys() & places.keys()):
                raise HartError(f"{folder}: {shown(twice[0])} is in {places[twice[0]].shard} and in {shard}")
            places |= found
        return cls(folder, tuple(expected), places)

    @property
    def nbytes(self) -> int:
        return sum((self.folder / shard).stat().st_size for shard in self.shards)

    def read(self, name: str) -> torch.Tensor:
        """A tensor of floating-point numbers."""
        place = self.places[name]
        with (self.folder / place.shard).open("rb") as file:
            return _read(file, place)

    def raw(self, name: str) -> bytes:
        place = self.places[name]
        with (self.folder / place.shard).open("rb") as file:
            file.seek(place.start)
            return file.read(place.stop - place.start)

    def copy_shard(self, shard: str, folder: Path, changes: Mapping[str, Change]) -> None:
        """Write a shard into another folder, with the tensors that `changes` names changed."""
        changed = {name: self.places[name] for name in changes if self.places[name].shard == shard}
        with (self.folder / shard).open("rb") as old, (folder / shard).open("wb") as new:
            for name, place in sorted(changed.items(), key=lambda item: item[1].start):
                _copy(old, new, place.start - old.tell())
                before = _read(old, place)
                after = changes[name](before)
                if (after.shape, after.dtype) != (before.shape, before.dtype):
                    raise AssertionError(f"{name} became {after.dtype} {tuple(after.shape)}")
                new.write(after.contiguous().view(torch.uint8).numpy())
            _copy(old, new)
            new.flush()
            os.fsync(new.fileno())  # here, or gigabytes wait in memory for the disk


def _expected(folder: Path) -> dict[str, set[str]]:
    """The shards in order, and what each is said to hold."""
    index = folder / INDEX
    if (folder / SINGLE).is_file():  # transformers looks for it first, too
        return {SINGLE: set()}
    if not index.is_file():
        raise HartError(f"{folder} holds no safetensors checkpoint: neither {SINGLE} nor {INDEX} is there")
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(shard, str) for shard in names.values()):
            raise ValueError("its weight_map should name a file for each tensor")
        shards: dict[str, set[str]] = {shard: set() for shard in sorted(set(names.values()))}
        for name, shard in names.items():
            shards[shard].add(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HartError(f"{index} is damaged: {error!r}") from error
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise HartError(f"{index} names a shard {shown(shard)}, which is no file name in its folder")
    return shards


def _header(folder: Path, shard: str) -> dict[str, Place]:
    path = folder / shard
    if not path.is_file():
        raise HartError(f"{path} is missing: the checkpoint is not whole. Download or save it again")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            if not 8 < begin <= size:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(begin - 8))
        header.pop("__metadata__", None)
        places = {name: _place(shard, begin, entry) for name, entry in header.items()}
        end = begin
        for place in sorted(places.values(), key=lambda place: place.start):
            if place.start != end:
                raise ValueError("its tensors overlap or leave gaps")
            end = place.stop
        if end != size:
            raise ValueError(f"it has {size:,} bytes, not {end:,}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise HartError(f"{path} is damaged: {error}. Download or save it again") from error
    return places


def _place(shard: str, begin: int, entry: dict) -> Place:
    start, stop = entry["data_offsets"]
    if not all(type(length) is int and 0 <= length < LONGEST for length in entry["shape"]):
        raise ValueError(f"a tensor has the shape {shown(entry['shape'])}")
    place = Place(shard, entry["dtype"], tuple(entry["shape"]), begin + start, begin + stop)
    if place.dtype in FLOATS and place.numel * FLOATS[place.dtype].itemsize != stop - start:
        raise ValueError("a tensor has more or fewer bytes than its shape says")
    return place


def _read(file: BinaryIO, place: Place) -> torch.Tensor:
    file.seek(place.start)
    data = bytearray(place.stop - place.start)
    file.readinto(data)
    return torch.frombuffer(data, dtype=FLOATS[place.dtype]).reshape(place.shape)


def _copy(old: BinaryIO, new: BinaryIO, nbytes: int | None = None) -> None:
    """The next `nbytes`, or all that is left."""
    while nbytes is None or nbytes > 0:
        piece = old.read(PIECE if nbytes is None else min(PIECE, nbytes))
        if not piece:
            return
        new.write(piece)
        if nbytes is not None:
            nbytes -= len(piece)
