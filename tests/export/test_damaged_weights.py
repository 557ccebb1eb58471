"""Checkpoints and adapters that others wrote, damaged."""

import json

import pytest
import torch
from damage import as_json, check_reader
from safetensors.torch import save

from hart_lite.errors import HartError
from hart_lite.export.lora import read_lora
from hart_lite.export.shards import Checkpoint

NESTED = "[" * 100_000
LAYER = "base_model.model.x.lora_{}.weight"
LORA = save({LAYER.format("A"): torch.ones(2, 3), LAYER.format("B"): torch.ones(4, 2)})
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "toy", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0}
ADAPTER_FILES = {"adapter_model.safetensors": LORA, "adapter_config.json": json.dumps(ADAPTER).encode()}


def test_a_damaged_shard_is_read_or_refused(tmp_path):
    def read(data: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(data)
        found = Checkpoint.open(tmp_path)
        assert found.nbytes == len(data)
        for name, slot in found.slots.items():
            assert found.read(name).shape == slot.shape

    check_reader(read, save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.float16)}))


def test_a_damaged_index_of_shards_is_read_or_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"x": torch.ones(2, 3)}))

    def read(data: bytes) -> None:
        (tmp_path / "model.safetensors.index.json").write_bytes(data)
        Checkpoint.open(tmp_path)

    check_reader(read, *as_json({"weight_map": {"x": "a.safetensors"}}))


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_damaged_adapter_is_read_or_refused(tmp_path, name):
    for file, content in ADAPTER_FILES.items():
        (tmp_path / file).write_bytes(content)

    def read(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        assert read_lora(tmp_path).pairs

    check_reader(read, ADAPTER_FILES[name])


@pytest.mark.parametrize("text", ['{"weight_map": {"x": 1}}', '{"weight_map": {"x": null}}', NESTED])
def test_what_is_no_index_of_shards_is_named(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(HartError, match=r"index\.json is damaged"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("shape", [[2**70], [-1, -6], [0, 2**62, 2**62], [True, 6], ["6"], [2.0, 3], [5]])
def test_a_tensor_of_an_impossible_shape_is_damage(tmp_path, shape):
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(HartError, match=r"model\.safetensors is damaged"):
        Checkpoint.open(tmp_path)


def test_an_adapter_whose_settings_are_nested_is_damaged(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(LORA)
    (tmp_path / "adapter_config.json").write_text(NESTED)
    with pytest.raises(HartError, match=r"adapter_config\.json is damaged"):
        read_lora(tmp_path)
