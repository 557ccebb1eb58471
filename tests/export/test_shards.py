"""A shard that is written anew has the base's bytes wherever nothing is changed, however the base laid them out."""

import json
import math

import pytest
import torch

from hart_lite.errors import ModelError
from hart_lite.export.shards import SINGLE, Checkpoint, raw

# Names out of the order of their bytes, a tensor without numbers, one number alone, types that nothing is added to.
TENSORS = {
    "z": ("F32", [2, 3]),
    "a": ("BF16", [4]),
    "empty": ("F16", [0, 7]),
    "number": ("F64", []),
    "ids": ("I64", [3]),
    "mask": ("BOOL", [5]),
    "eight": ("F8_E4M3", [3]),
}
BYTES = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "F8_E4M3": 1}


def write(path, tensors=TENSORS, padding=b"   "):
    """By hand, as safetensors' own writer would not: it sorts. Every byte is another one, but for those of booleans."""
    header, data = {"__metadata__": {"format": "pt", "who": "\u00fc"}}, b""
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes([1] * size if dtype == "BOOL" else [(len(data) + n) % 256 for n in range(size)])
    text = json.dumps(header, ensure_ascii=False).encode() + padding
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path.read_bytes(), 8 + len(text)


def test_a_shard_without_changes_is_copied_byte_for_byte(tmp_path):
    before, _ = write(tmp_path / SINGLE)
    (tmp_path / "out").mkdir()
    checkpoint = Checkpoint.open(tmp_path)
    assert [tuple(slot.shape) for slot in checkpoint.slots.values()] == [tuple(shape) for _, shape in TENSORS.values()]
    checkpoint.copy_shard(SINGLE, tmp_path / "out", {})
    assert (tmp_path / "out" / SINGLE).read_bytes() == before
    assert checkpoint.nbytes == len(before)


def test_a_change_touches_the_bytes_of_its_tensor_alone(tmp_path):
    before, begin = write(tmp_path / SINGLE)
    (tmp_path / "out").mkdir()
    Checkpoint.open(tmp_path).copy_shard(SINGLE, tmp_path / "out", {"a": torch.zeros_like, "not here": torch.neg})
    place = slice(begin + 24, begin + 32)  # after the six numbers of z
    assert (tmp_path / "out" / SINGLE).read_bytes() == before[: place.start] + bytes(8) + before[place.stop :]


@pytest.mark.parametrize("change", [torch.Tensor.float, lambda weight: weight[:2]])
def test_a_change_may_not_change_the_kind_of_a_tensor(tmp_path, change):
    write(tmp_path / SINGLE)
    (tmp_path / "out").mkdir()
    with pytest.raises(AssertionError, match="a became torch"):
        Checkpoint.open(tmp_path).copy_shard(SINGLE, tmp_path / "out", {"a": change})


def test_bytes_tell_apart_what_numbers_do_not():
    one, other = torch.tensor([math.nan, 0.0]), torch.tensor([math.nan, -0.0])
    assert torch.equal(raw(one), raw(one.clone())) and not torch.equal(one, one.clone())
    assert torch.equal(one[1], other[1]) and not torch.equal(raw(one), raw(other))


@pytest.mark.parametrize("offsets", [([0, 8], [4, 12]), ([4, 12], [12, 20]), ([0, 8], [12, 20]), ([0, 8], [8, 20])])
def test_tensors_that_overlap_or_leave_gaps_are_damage(tmp_path, offsets):
    entries = {name: {"dtype": "F32", "shape": [2], "data_offsets": at} for name, at in zip("ab", offsets, strict=True)}
    header = json.dumps(entries).encode()
    (tmp_path / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(offsets[1][1]))
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        Checkpoint.open(tmp_path)
