"""The files of an adapter in PEFT's format, read without a model."""

from __future__ import annotations

import json
from pathlib import Path

from hart_lite.errors import ModelError
from hart_lite.utils.text import shown

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def read_adapter_config(folder: Path) -> dict:
    """Raises `ModelError` for a folder without an adapter, and for a config that is damaged."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} holds no adapter: {name} is missing")
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is damaged: it holds {shown(config)}, not an object")
    return config
