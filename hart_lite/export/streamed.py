"""A model whose weights stay in their files: a module's are read when it runs, and let go when it has run.

A forward pass then takes the memory of one module's weights in float32, however large the model is, and reads the whole
checkpoint from the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForImageTextToText

from hart_lite.errors import HartError
from hart_lite.export.shards import Change, Checkpoint
from hart_lite.export.tensor_names import Names


def streamed(names: Names, changes: Mapping[str, Change] | None = None) -> nn.Module:
    """The plain model class in float32 on CPU. `changes`: what becomes of a weight when it is read, by its stored name.

    Raises `HartError` for a checkpoint that lacks one of the model's weights.
    """
    with _NoMemory():
        model = AutoModelForImageTextToText.from_config(names.model.config, dtype=torch.float32)
    stored = names.everywhere()
    for path, module in model.named_modules():
        own = [key for key, weight in module._parameters.items() if weight is not None]
        parameters = [f"{path}.{key}" if path else key for key in own]
        if missing := [name for name in parameters if name not in stored]:
            raise HartError(f"{names.checkpoint.folder} lacks {missing[0]}; it is not a whole checkpoint")
        if own:
            files = {key: stored[name] for key, name in zip(own, parameters, strict=True)}
            _stream(module, partial(_read, files, names.checkpoint, changes or {}))
    return model.eval()


class _NoMemory(TorchFunctionMode):
    """Weights, which begin as memory without values, take none. Buffers, computed from the config, are as always."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def _stream(module: nn.Module, read: Callable[[], dict[str, nn.Parameter]]) -> None:
    # One number in the place of a weight: with its shape, and on the CPU, where PEFT then makes its matrices.
    empty = {key: _parameter(torch.zeros(()).expand(w.shape)) for key, w in module._parameters.items() if w is not None}
    module._parameters.update(empty)
    module.register_forward_pre_hook(lambda module, _: module._parameters.update(read()))
    module.register_forward_hook(lambda module, *_: module._parameters.update(empty))


def _read(files: Mapping[str, str], checkpoint: Checkpoint, changes: Mapping[str, Change]) -> dict[str, nn.Parameter]:
    found = {}
    for key, name in files.items():
        weight = checkpoint.read(name)
        found[key] = _parameter((changes[name](weight) if name in changes else weight).float())
    return found


def _parameter(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
